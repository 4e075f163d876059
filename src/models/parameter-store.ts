/**
 * Weights and optimizer state in memory that processes share and that outlives them.
 *
 * There are three slots, each {parameters, first moment, second moment, optimizer step}. One of them is *published*:
 * generation reads it and nobody writes it. An update reads one slot and writes another; minibatches go back and forth
 * between the two unpublished ones; `publish` makes the last one current with a single 8-byte write. Whoever opens the
 * file after a crash finds the published slot whole, optimizer included, and treats the other two as scratch.
 *
 * File: one header page, then the slots, each array starting on a page. Header words (u64): 0 magic, 1 format, 2 layout
 * hash, 3 layout length, 4 publication, 8 + s optimizer step of slot s. The publication word carries its own check:
 * bits 32–63 version, 24–31 slot + 1, 0–23 a hash of the others; 0 means nothing was published yet.
 */

import { existsSync, statSync } from "node:fs";
import { AleError } from "../core/errors.ts";
import { allocateDense, mapSharedFile } from "../runtime/memory.ts";
import type { ParameterLayout } from "./parameters.ts";

export type Slot = 0 | 1 | 2;
export const SLOTS: readonly Slot[] = [0, 1, 2];

/** The slot generation reads and the weight version it holds. */
export interface Publication {
  readonly slot: Slot;
  readonly version: number;
}

const PAGE = 4096;
const MAGIC = 0x4d41524150454c41n; // "ALEPARAM" in memory
const FORMAT = 1n;
const MAGIC_WORD = 0;
const FORMAT_WORD = 1;
const HASH_WORD = 2;
const LENGTH_WORD = 3;
const PUBLICATION_WORD = 4;
const STEP_WORD = 8;
const ARRAYS_PER_SLOT = 3;

export class ParameterStore {
  readonly layout: ParameterLayout;
  readonly #header: BigUint64Array<ArrayBuffer>;
  /** Per slot: parameters, first moment, second moment. */
  readonly #arrays: readonly (readonly [Float32Array, Float32Array, Float32Array])[];

  private constructor(layout: ParameterLayout, memory: Uint8Array<ArrayBuffer>) {
    this.layout = layout;
    this.#header = new BigUint64Array(memory.buffer, memory.byteOffset, PAGE / 8);
    const stride = arrayBytes(layout);
    const array = (index: number) =>
      new Float32Array(memory.buffer, memory.byteOffset + PAGE + index * stride, layout.length);
    this.#arrays = SLOTS.map((slot) => {
      const first = slot * ARRAYS_PER_SLOT;
      return [array(first), array(first + 1), array(first + 2)] as const;
    });
  }

  /** A store in this process's memory only. */
  static inMemory(layout: ParameterLayout): ParameterStore {
    const store = new ParameterStore(layout, allocateDense(storeBytes(layout)));
    store.#writeHeader();
    return store;
  }

  /**
   * Opens the store in the file `path`, or makes one of zeros when there is no such file.
   * @throws AleError("model") when the file is damaged or was made for another model, AleError("storage_full") when the
   * disk cannot hold it.
   */
  static open(path: string, layout: ParameterLayout): ParameterStore {
    const bytes = storeBytes(layout);
    const fresh = !existsSync(path) || statSync(path).size === 0;
    if (!fresh && statSync(path).size !== bytes) {
      throw damaged(path, `it has ${statSync(path).size} bytes instead of ${bytes}`);
    }
    const store = new ParameterStore(layout, mapSharedFile(path, bytes));
    if (fresh) store.#writeHeader();
    else store.#checkHeader(path);
    return store;
  }

  /** The published slot, or `null` in a fresh store. */
  get published(): Publication | null {
    const word = Atomics.load(this.#header, PUBLICATION_WORD);
    return word === 0n ? null : decodePublication(word);
  }

  /** Flat parameters of a slot, in the layout's order. */
  parameters(slot: Slot): Float32Array {
    return this.#arrays[slot]?.[0] as Float32Array;
  }

  /** AdamW's running mean of gradients, flat. */
  firstMoment(slot: Slot): Float32Array {
    return this.#arrays[slot]?.[1] as Float32Array;
  }

  /** AdamW's running mean of squared gradients, flat. */
  secondMoment(slot: Slot): Float32Array {
    return this.#arrays[slot]?.[2] as Float32Array;
  }

  /** Optimizer steps that made this slot. */
  step(slot: Slot): number {
    return Number(this.#header[STEP_WORD + slot]);
  }

  /** @throws AleError("internal") for the published slot. */
  setStep(slot: Slot, step: number): void {
    this.assertWritable(slot);
    this.#header[STEP_WORD + slot] = BigInt(step);
  }

  /** An unpublished slot other than `source`: where an update that reads `source` may write. */
  targetFor(source: Slot): Slot {
    const taken = this.published?.slot;
    const free = SLOTS.find((slot) => slot !== source && slot !== taken);
    return free as Slot;
  }

  /** @throws AleError("internal") when `slot` is the published one. */
  assertWritable(slot: Slot): void {
    if (this.published?.slot === slot) {
      throw new AleError("internal", `slot ${slot} is published and must not be written`);
    }
  }

  /** Copies parameters, moments and step of `source` to the unpublished slot `target`. */
  copySlot(source: Slot, target: Slot): void {
    this.assertWritable(target);
    this.parameters(target).set(this.parameters(source));
    this.firstMoment(target).set(this.firstMoment(source));
    this.secondMoment(target).set(this.secondMoment(source));
    this.setStep(target, this.step(source));
  }

  /** Makes `slot` the one generation reads, as weight version `version` (0 … 2³² − 1); one 8-byte write. */
  publish(slot: Slot, version: number): void {
    if (!Number.isInteger(version) || version < 0 || version > 0xffffffff) {
      throw new AleError("internal", `weight version ${version} is out of range`);
    }
    Atomics.store(this.#header, PUBLICATION_WORD, encodePublication(slot, version));
  }

  #writeHeader(): void {
    const header = this.#header;
    header[FORMAT_WORD] = FORMAT;
    header[HASH_WORD] = this.layout.hash;
    header[LENGTH_WORD] = BigInt(this.layout.length);
    // Last, so that a crash in between leaves a file that is refused rather than trusted.
    Atomics.store(header, MAGIC_WORD, MAGIC);
  }

  #checkHeader(path: string): void {
    const header = this.#header;
    if (header[MAGIC_WORD] !== MAGIC) throw damaged(path, "it does not begin with ALEPARAM");
    if (header[FORMAT_WORD] !== FORMAT) throw damaged(path, `it has format ${header[FORMAT_WORD]}, not ${FORMAT}`);
    if (header[HASH_WORD] !== this.layout.hash || header[LENGTH_WORD] !== BigInt(this.layout.length)) {
      throw damaged(path, "it was made for a model of another shape");
    }
    const word = header[PUBLICATION_WORD] as bigint;
    if (word !== 0n && decodePublication(word) === null) throw damaged(path, "its publication record is not sound");
  }
}

function arrayBytes(layout: ParameterLayout): number {
  return Math.ceil((layout.length * 4) / PAGE) * PAGE;
}

function storeBytes(layout: ParameterLayout): number {
  return PAGE + SLOTS.length * ARRAYS_PER_SLOT * arrayBytes(layout);
}

function damaged(path: string, why: string): AleError {
  return new AleError("model", `${path} is not a usable parameter store: ${why}`, {
    hint: "delete the file; the run continues from its last checkpoint",
  });
}

function encodePublication(slot: Slot, version: number): bigint {
  const payload = (BigInt(version) << 8n) | BigInt(slot + 1);
  return (payload << 24n) | publicationCheck(payload);
}

function decodePublication(word: bigint): Publication | null {
  const payload = word >> 24n;
  const slot = Number(payload & 0xffn) - 1;
  if (publicationCheck(payload) !== (word & 0xffffffn) || !SLOTS.includes(slot as Slot)) return null;
  return { slot: slot as Slot, version: Number(payload >> 8n) };
}

/** 24 bits of a multiplicative hash (Fibonacci hashing). */
function publicationCheck(payload: bigint): bigint {
  return (BigInt.asUintN(64, (payload + 1n) * 0x9e3779b97f4a7c15n) >> 40n) & 0xffffffn;
}
