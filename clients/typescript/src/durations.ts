import type { Duration } from "@bufbuild/protobuf/wkt";

/** Return a duration in seconds. */
export function seconds(duration: Pick<Duration, "seconds" | "nanos">): number {
  return Number(duration.seconds) + duration.nanos / 1e9;
}

/** Write so many seconds as a duration. */
export function duration(seconds: number): { seconds: bigint; nanos: number } {
  const whole = Math.floor(seconds);
  return { seconds: BigInt(whole), nanos: Math.floor((seconds - whole) * 1e9) };
}
