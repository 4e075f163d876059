/** The port of a teacher: a model that says how likely tokens are, and learns nothing. */

/** The most likely tokens before each token of each sequence, best first; element t · `count` + i is the i-th at token t. */
export interface TopTokens {
  readonly count: number;
  readonly ids: readonly Int32Array[];
  readonly logprobs: readonly Float32Array[];
}

/** Arrays per sequence. The first token has nothing before it: its elements are 0. */
export interface TeacherScores {
  /** log p(token t | tokens < t). */
  readonly logprobs: readonly Float32Array[];
  /** Present when it was asked for. */
  readonly top?: TopTokens;
}

export interface ScoreOptions {
  /** What logits are divided by. */
  readonly temperature: number;
  /** Most likely tokens to name; 0 = none. */
  readonly top: number;
  /** Ids from here on are not among them. */
  readonly vocabularySize: number;
}

export interface Teacher {
  /** Folder or address, for messages. */
  readonly name: string;
  /** @throws AleError("engine" | "remote") when it cannot say; aborts with `signal`. */
  score(sequences: readonly Int32Array[], options: ScoreOptions, signal: AbortSignal): Promise<TeacherScores>;
  stop(): Promise<void>;
}
