/** Names of runs: short, in order of time for one experiment, and without letters that look alike. */

/** Crockford's base 32: no i, l, o, u. https://www.crockford.com/base32.html */
const ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz";
const EPOCH_MS = Date.UTC(2025, 0, 1);

function base32(value: number, length: number): string {
  let text = "";
  let rest = value;
  for (let i = 0; i < length; i++) {
    text = (ALPHABET[rest % 32] as string) + text;
    rest = Math.floor(rest / 32);
  }
  return text;
}

/** `shell-1s0f5n7q`: the experiment, six digits of the second since 2025 (34 years of them), two random ones. */
export function makeRunId(name: string, nowMs: number, random: number): string {
  const seconds = Math.max(0, Math.floor((nowMs - EPOCH_MS) / 1000));
  return `${name}-${base32(seconds, 6)}${base32(Math.floor(random * 1024), 2)}`;
}
