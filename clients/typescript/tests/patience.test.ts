/** A call that was turned away is tried again when the server says so, if its caller will wait. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { create, fromBinary, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import { Metadata, status, type ServiceError } from "@grpc/grpc-js";
import {
  BosalError,
  Cancelled,
  Client,
  Overloaded,
  Unavailable,
  type CallOptions,
  type ClientOptions,
} from "@bosal/client";
import { duration } from "#dist/durations.js";
import {
  GenerateRequestSchema,
  GenerateResponseSchema,
  GenerateStreamRequestSchema,
  GenerateStreamResponseSchema,
} from "#dist/gen/bosal/v1/generation_pb.js";
import { ErrorInfoSchema, RetryInfoSchema } from "#dist/gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "#dist/gen/google/rpc/status_pb.js";
import { Pause, Waits } from "#dist/patience.js";
import { refused } from "./liveServer.js";
import { ToyServer, type ToyCall } from "./toyServer.js";

const AFTER = 0.1;
const SERVICE = "/bosal.v1.GenerationService";
const STARTED = written({ event: { case: "started", value: {} } });
const FINISHED = written({ event: { case: "finished", value: {} } });

type Ask = (client: Client, options?: CallOptions) => Promise<unknown>;

const KINDS: readonly Ask[] = [
  (client, options) => client.generate("Hi", options),
  (client, options) => client.stream("Hi", options).result(),
];

/** Turns the first calls away. */
class Crowded {
  readonly requestIds: string[] = [];
  readonly times: number[] = [];
  /** What each call had left of its timeout when it came, in seconds. */
  readonly left: number[] = [];
  readonly isAsked: Promise<void>;
  readonly #toy = new ToyServer();
  #wake!: () => void;

  constructor(numRefusals: number, after = AFTER) {
    this.isAsked = new Promise((resolve) => {
      this.#wake = resolve;
    });
    const take = (requestId: string | undefined, call: ToyCall) => {
      this.requestIds.push(requestId ?? "");
      this.times.push(performance.now() / 1000);
      this.left.push((Number(call.getDeadline()) - Date.now()) / 1000);
      this.#wake();
      if (this.times.length <= numRefusals) {
        throw refusal(after);
      }
    };
    this.#toy.answer(`${SERVICE}/Generate`, (call) => {
      take(fromBinary(GenerateRequestSchema, call.request).spec?.requestId, call);
      return toBinary(GenerateResponseSchema, create(GenerateResponseSchema, {}));
    });
    this.#toy.stream(`${SERVICE}/GenerateStream`, function* (call) {
      const { spec } = fromBinary(GenerateStreamRequestSchema, call.request);
      take(spec?.requestId, call);
      yield STARTED;
      if (spec?.input.value === "cut") {
        throw refusal(after);
      }
      yield FINISHED;
    });
  }

  async client(options: ClientOptions): Promise<Client> {
    return new Client({ server: await this.#toy.address(), ...options });
  }

  [Symbol.dispose](): void {
    this.#toy.close();
  }
}

test("it comes again no sooner than it was told, and as the same request", async () => {
  for (const ask of KINDS) {
    using service = new Crowded(2);
    using client = await service.client({ retrySeconds: 60 });
    await ask(client, { timeout: 50 });
    assert.equal(service.times.length, 3);
    const [first, second, third] = service.times as [number, number, number];
    assert.ok(Math.min(second - first, third - second) >= AFTER);
    assert.equal(new Set(service.requestIds).size, 1);
    assert.ok(service.requestIds[0]);
    // The timeout is that of all tries together; it is sent in whole milliseconds.
    assert.ok(service.left.every((left, number) => left <= 50.01 - number * AFTER));
  }
});

test("without patience a refusal is the answer", async () => {
  for (const ask of KINDS) {
    for (const options of [{}, { retrySeconds: 0 }]) {
      using service = new Crowded(1);
      using client = await service.client(options);
      await assert.rejects(
        ask(client),
        (error) => error instanceof Overloaded && error.retryAfter === AFTER,
      );
      assert.equal(service.times.length, 1);
    }
  }
});

test("what would come too late fails at once", async () => {
  for (const ask of KINDS) {
    for (const [retrySeconds, timeout] of [[1], [3600, 30]] as [number, number?][]) {
      using service = new Crowded(1, 1000);
      using client = await service.client({ retrySeconds, timeout });
      // With the refusal, not with a deadline that passed while it slept.
      await assert.rejects(ask(client), Overloaded);
      assert.equal(service.times.length, 1);
    }
  }
});

test("what has begun is not begun again", async () => {
  using service = new Crowded(0);
  using client = await service.client({ retrySeconds: 60 });
  await assert.rejects(client.stream("cut").result(), Overloaded);
  assert.equal(service.times.length, 1);
});

test("a pause ends when its call is given up or the client closed", async () => {
  for (const ask of KINDS) {
    for (const end of ["abort", "close"]) {
      using service = new Crowded(9, 1000);
      using client = await service.client({ retrySeconds: 10_000 });
      const giving = new AbortController();
      const asked = assert.rejects(
        ask(client, { signal: giving.signal }),
        (error) =>
          error instanceof Cancelled && error.cause === (end === "abort" ? "enough" : undefined),
      );
      await service.isAsked;
      // It has the refusal by now, and pauses; if not, it ends all the same.
      await sleep(50);
      if (end === "abort") {
        giving.abort("enough");
      } else {
        client.close();
      }
      await asked;
      assert.equal(service.times.length, 1);
    }
  }
});

test("a stream that is cancelled in a pause stays so", async () => {
  using service = new Crowded(9, 1000);
  using client = await service.client({ retrySeconds: 10_000 });
  const stream = client.stream("Hi");
  const asked = assert.rejects(stream.result(), Cancelled);
  await service.isAsked;
  await sleep(50);
  stream.cancel();
  await asked;
  await assert.rejects(stream.result(), Cancelled);
  assert.equal(service.times.length, 1);
});

test("a patience that is no time is refused", () => {
  for (const retrySeconds of [-1, Number.NaN, "3" as never, null as never]) {
    assert.throws(() => new Client({ retrySeconds }), refused("retrySeconds"));
  }
  new Client({ retrySeconds: Infinity }).close();
});

test("tries end when patience or the timeout does", () => {
  for (const [timeout, last] of [[undefined, 10], [5, 4]] as const) {
    let now = 0;
    const waits = new Waits(10, timeout, () => now, () => 0);
    let numPauses = 0;
    for (let pause = waits.pause(full(1)); pause !== undefined; pause = waits.pause(full(1))) {
      assert.equal(pause, 1);
      now += pause;
      numPauses += 1;
    }
    assert.equal(numPauses, last);
  }
});

test("many that are told the same come apart, and never early", () => {
  const pauses = [0, 0.25, 0.5, 0.75].map((chance) =>
    new Waits(100, undefined, () => 0, () => chance).pause(full(2))!,
  );
  assert.equal(new Set(pauses).size, 4);
  assert.equal(Math.min(...pauses), 2);
  assert.ok(Math.max(...pauses) < 2.6);
});

test("other failures are not tried again", () => {
  const failures = [
    full(undefined),
    new Unavailable("gone", { retryAfter: 1 }),
    new BosalError("no"),
    new Error("no"),
  ];
  for (const failure of failures) {
    assert.equal(new Waits(100).pause(failure), undefined);
  }
});

test("a server that says at once is not asked without a pause", () => {
  assert.ok(new Waits(100).pause(full(0))! > 0);
});

test("a pause may be longer than a timer", async () => {
  const pause = new Pause(40 * 86_400);
  assert.equal(await Promise.race([pause.over, sleep(20, "waiting")]), "waiting");
  pause.cancel();
  assert.equal(await pause.over, false);
  assert.equal(await new Pause(0).over, true);
});

function full(retryAfter: number | undefined): Overloaded {
  return new Overloaded("full", { retryAfter });
}

function refusal(after: number): Partial<ServiceError> {
  const details = [
    anyPack(ErrorInfoSchema, create(ErrorInfoSchema, { reason: "QUEUE_FULL" })),
    anyPack(RetryInfoSchema, create(RetryInfoSchema, { retryDelay: duration(after) })),
  ];
  const written = create(StatusSchema, { code: status.RESOURCE_EXHAUSTED, details });
  const metadata = new Metadata();
  metadata.set("grpc-status-details-bin", Buffer.from(toBinary(StatusSchema, written)));
  return { code: status.RESOURCE_EXHAUSTED, details: "full", metadata };
}

function written(event: MessageInitShape<typeof GenerateStreamResponseSchema>): Uint8Array {
  return toBinary(GenerateStreamResponseSchema, create(GenerateStreamResponseSchema, event));
}
