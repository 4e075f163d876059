/**
 * Where the engines of a pool meet during an update: a file that all of them map. Each has a word in it that says how far
 * it is, a small area for values that all are to know, and an array for its gradients.
 *
 * An update that is sent again after an engine died is a new *attempt*. Everything said in an attempt carries its number,
 * so nothing of an older one can be taken for it; whoever starts attempts waits first until nobody works on the last one.
 *
 * File: per engine one cache line with a word, attempt · 2³² + meetings; per engine two areas of `CAPACITY` float64, used
 * by turns; per engine a flat float32 array, on a page boundary.
 */

import { AleError } from "../core/errors.ts";
import { mapSharedFile } from "../runtime/memory.ts";
import type { Pause } from "../trainer/micro-operations.ts";

export interface ExchangeOptions {
  readonly rank: number;
  readonly size: number;
  /** Length of the flat gradient arrays. */
  readonly length: number;
  /** Below the deadline of an update, so that the error names who is missing; a mix of devices waits for the slowest. */
  readonly deadlineMs?: number;
  /** Awaited after each meeting, before work goes on. */
  readonly pause?: Pause | undefined;
}

const PAGE = 4096;
const LINE_WORDS = 8;
/** Values an engine can tell the others in one meeting. */
const CAPACITY = 1 << 14;
/** Default of `ExchangeOptions.deadlineMs`. */
export const MEETING_DEADLINE_MS = 1_500_000;
/** How long a wait looks again and again before it lets the core go. */
const SPIN_MS = 1;

export class Exchange {
  readonly rank: number;
  readonly size: number;
  readonly #words: BigUint64Array<ArrayBuffer>;
  /** Per engine, its two areas. */
  readonly #areas: readonly (readonly [Float64Array, Float64Array])[];
  readonly #gradients: readonly Float32Array[];
  readonly #deadlineMs: number;
  readonly #pause: Pause | undefined;
  #members: readonly number[];
  #attempt = 0;
  #abandoned = 0;
  #meetings = 0;

  private constructor(options: ExchangeOptions, memory: Uint8Array<ArrayBuffer>) {
    const { rank, size, length, pause, deadlineMs = MEETING_DEADLINE_MS } = options;
    this.#deadlineMs = deadlineMs;
    this.rank = rank;
    this.size = size;
    this.#pause = pause;
    const ranks = Array.from({ length: size }, (_, engine) => engine);
    this.#members = ranks;
    const { buffer, byteOffset } = memory;
    this.#words = new BigUint64Array(buffer, byteOffset, size * LINE_WORDS);
    const area = (index: number) =>
      new Float64Array(buffer, byteOffset + wordBytes(size) + index * CAPACITY * 8, CAPACITY);
    this.#areas = ranks.map((engine) => [area(2 * engine), area(2 * engine + 1)] as const);
    const first = byteOffset + wordBytes(size) + size * 2 * CAPACITY * 8;
    this.#gradients = ranks.map((engine) => new Float32Array(buffer, first + engine * pages(length * 4), length));
  }

  /** @throws AleError("storage_full" | "engine") when the file cannot be made or mapped. */
  static open(path: string, options: ExchangeOptions): Exchange {
    const { size, length } = options;
    const bytes = wordBytes(size) + size * (2 * CAPACITY * 8 + pages(length * 4));
    return new Exchange(options, mapSharedFile(path, bytes));
  }

  /** The flat gradients of an engine. */
  gradients(rank: number): Float32Array {
    return this.#gradients[rank] as Float32Array;
  }

  /** Ranks of the engines that work on the attempt, in order; this one is among them. */
  get members(): readonly number[] {
    return this.#members;
  }

  /**
   * Begins an attempt; its number must be higher than that of any before.
   * @param members who works on it; all by default, in the order of their ranks.
   */
  begin(attempt: number, members: readonly number[] = this.#areas.map((_, rank) => rank)): void {
    this.#attempt = attempt;
    this.#members = members;
    this.#meetings = 0;
    this.assertGoesOn();
    this.#say(0);
  }

  /** Lets the attempt fail here and now if this engine works on it, or as soon as it begins it. */
  abandon(attempt: number): void {
    this.#abandoned = Math.max(this.#abandoned, attempt);
  }

  /**
   * Waits until all members have come to this meeting. What each wrote to shared memory before is then visible to all.
   * @param what names the meeting in errors. @throws AleError("engine") when the attempt was given up, or an engine stays away.
   */
  async meet(what: string): Promise<void> {
    const started = performance.now();
    this.#say(++this.#meetings);
    for (let missing = this.#missing(); missing !== undefined; missing = this.#missing()) {
      this.assertGoesOn();
      const waited = performance.now() - started;
      if (waited > this.#deadlineMs) {
        throw new AleError(
          "engine",
          `engine ${this.rank} waited ${Math.round(waited / 1000)} s for engine ${missing} (${what})`,
        );
      }
      // Messages come in meanwhile, among them the one that ends the attempt.
      await (waited < SPIN_MS ? new Promise<void>((resolve) => setImmediate(resolve)) : Bun.sleep(1));
    }
    await this.#pause?.();
  }

  /**
   * Every member tells as many values as `lengths` says at its place among them, and learns those of all.
   * @returns the values of each, in the order of the members; the same for all.
   */
  async gather(what: string, mine: ArrayLike<number>, lengths: readonly number[]): Promise<Float64Array[]> {
    const all = lengths.map((length) => new Float64Array(length));
    const place = this.#members.indexOf(this.rank);
    (all[place] as Float64Array).set(mine);
    const longest = Math.max(1, ...lengths);
    for (let begin = 0; begin < longest; begin += CAPACITY) {
      // The area of the meeting before last is free: all have been at the last one since they read it.
      const turn = (this.#meetings + 1) % 2;
      this.#area(this.rank, turn).set((all[place] as Float64Array).subarray(begin, begin + CAPACITY));
      await this.meet(what);
      for (const [member, values] of all.entries()) {
        if (member === place) continue;
        const part = values.subarray(begin, begin + CAPACITY);
        part.set(this.#area(this.#members[member] as number, turn).subarray(0, part.length));
      }
    }
    return all;
  }

  /** @throws AleError("engine") when the attempt was given up. */
  assertGoesOn(): void {
    if (this.#abandoned < this.#attempt) return;
    throw new AleError("engine", "the update was given up because another engine could not finish it");
  }

  #area(rank: number, turn: number): Float64Array {
    return this.#areas[rank]?.[turn] as Float64Array;
  }

  #say(meetings: number): void {
    Atomics.store(this.#words, this.rank * LINE_WORDS, (BigInt(this.#attempt) << 32n) | BigInt(meetings));
  }

  /** A member that is not at this meeting yet. */
  #missing(): number | undefined {
    const here = (BigInt(this.#attempt) << 32n) | BigInt(this.#meetings);
    const end = BigInt(this.#attempt + 1) << 32n;
    for (const rank of this.#members) {
      const word = Atomics.load(this.#words, rank * LINE_WORDS);
      if (word < here || word >= end) return rank;
    }
    return undefined;
  }
}

function pages(bytes: number): number {
  return Math.ceil(bytes / PAGE) * PAGE;
}

function wordBytes(size: number): number {
  return pages(size * LINE_WORDS * 8);
}
