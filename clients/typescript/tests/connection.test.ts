import assert from "node:assert/strict";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import {
  Metadata,
  Server,
  ServerCredentials,
  status,
  type ServerUnaryCall,
  type sendUnaryData,
} from "@grpc/grpc-js";
import {
  BosalError,
  Cancelled,
  Client,
  DeadlineExceeded,
  InternalError,
  InvalidRequest,
  PermissionDenied,
  Unauthenticated,
  Unavailable,
} from "@bosal/client";
import { ENDLESS, connect, secured } from "./liveServer.js";

const raw = {
  requestStream: false,
  responseStream: false,
  requestSerialize: (value: Buffer) => value,
  requestDeserialize: (bytes: Buffer) => bytes,
  responseSerialize: (value: Buffer) => value,
  responseDeserialize: (bytes: Buffer) => bytes,
};

/** A server whose ListModels is unavailable for the first calls, with these trailers. */
class Flaky {
  numCalls = 0;
  readonly #server = new Server();

  constructor(numFailures: number, code: status, trailers: Record<string, string> = {}) {
    const service = { listModels: { ...raw, path: "/bosal.v1.ModelService/ListModels" } };
    this.#server.addService(service, {
      listModels: (_: ServerUnaryCall<Buffer, Buffer>, answer: sendUnaryData<Buffer>) => {
        this.numCalls += 1;
        if (this.numCalls > numFailures) {
          answer(null, Buffer.alloc(0));
          return;
        }
        const metadata = new Metadata();
        Object.entries(trailers).forEach(([name, value]) => metadata.set(name, value));
        answer({ code, details: "not now", metadata });
      },
    });
  }

  async ask(): Promise<unknown> {
    const port = await new Promise<number>((resolve, reject) => {
      this.#server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, bound) =>
        error ? reject(error) : resolve(bound),
      );
    });
    using client = new Client({ server: `127.0.0.1:${port}` });
    try {
      return await client.models();
    } finally {
      this.#server.forceShutdown();
    }
  }
}

test("an unavailable server is tried again, four times in all", async () => {
  const short = new Flaky(2, status.UNAVAILABLE);
  assert.deepEqual(await short.ask(), []);
  assert.equal(short.numCalls, 3);
  const long = new Flaky(100, status.UNAVAILABLE);
  await assert.rejects(long.ask(), (error: unknown) => {
    assert.ok(error instanceof Unavailable);
    assert.equal(error.message, "not now");
    return true;
  });
  assert.equal(long.numCalls, 4);
});

test("a server that is too busy is not tried again", async () => {
  const busy = new Flaky(1, status.RESOURCE_EXHAUSTED);
  await assert.rejects(busy.ask(), BosalError);
  assert.equal(busy.numCalls, 1);
});

test("a server says when to try again, or not to", async () => {
  const soon = new Flaky(3, status.UNAVAILABLE, { "grpc-retry-pushback-ms": "1" });
  assert.deepEqual(await soon.ask(), []);
  assert.equal(soon.numCalls, 4);
  const never = new Flaky(1, status.UNAVAILABLE, { "grpc-retry-pushback-ms": "-1" });
  await assert.rejects(never.ask(), Unavailable);
  assert.equal(never.numCalls, 1);
});

test("an absent server is unavailable, also to a stream nobody reads", async () => {
  using client = new Client({ server: "127.0.0.1:1" });
  const unread = client.stream("Hello", { timeout: 30 });
  await assert.rejects(client.models({ timeout: 30 }), Unavailable);
  await assert.rejects(unread.result(), Unavailable);
});

test("a silent server is given up at the client's timeout", async () => {
  const silent = createServer((socket) => socket.unref()).listen(0, "127.0.0.1");
  await new Promise((resolve) => silent.once("listening", resolve));
  const { port } = silent.address() as AddressInfo;
  using client = new Client({ server: `127.0.0.1:${port}`, timeout: 0.2 });
  await assert.rejects(client.models(), DeadlineExceeded);
  await assert.rejects(client.stream("Hello").result(), DeadlineExceeded);
  await assert.rejects(client.generate("Hello", { timeout: 0.1 }), DeadlineExceeded);
  silent.unref();
});

test("a closed client says so, and its calls end", async () => {
  const client = connect();
  const options = { maxTokens: 400, numChoices: 8, overrides: ENDLESS };
  const stream = client.stream("Hello", options);
  await stream.started();
  const call = client.generate("Hello", options);
  client.close();
  client.close();
  await assert.rejects(stream.result(), Cancelled);
  await assert.rejects(call, Cancelled);
  const isClosed = (error: unknown) =>
    error instanceof Unavailable && error.reason === "CLIENT_CLOSED";
  await assert.rejects(client.models(), isClosed);
  assert.throws(() => client.stream("Hello"), isClosed);
  assert.throws(() => client.compare("Hello", ["plain", "rules"]), isClosed);
  await assert.rejects(client.experiments.watch("any").next(), isClosed);
});

test("a timeout without end is none, one that is no time is refused", async () => {
  using client = connect();
  for (const timeout of [Infinity, 1e12]) {
    assert.equal((await client.models({ timeout })).length, 1);
  }
  for (const timeout of [Number.NaN, "3" as never]) {
    await assert.rejects(client.models({ timeout }), refused("timeout"));
    assert.throws(() => client.stream("Hello", { timeout }), refused("timeout"));
    assert.throws(() => new Client({ timeout }), refused("timeout"));
  }
  await assert.rejects(client.models({ timeout: 0 }), DeadlineExceeded);
});

test("what is no address or no key is said at once", () => {
  for (const server of ["http://127.0.0.1:50051", "https://example.org", ""]) {
    assert.throws(() => new Client({ server }), refused("server"));
  }
  for (const apiKey of ["secret\n", "se\u00e4cret", "two words", "\0secret"]) {
    assert.throws(
      () => new Client({ apiKey }),
      (error: unknown) => refused("apiKey")(error) && !String(error).includes("cret"),
    );
  }
});

test("what the wire cannot hold is named", async () => {
  using client = connect();
  const wrong: [object, string][] = [
    [{ maxTokens: -1 }, "spec.max_tokens"],
    [{ maxTokens: 1.5 }, "spec.max_tokens"],
    [{ numChoices: 2 ** 40 }, "spec.num_choices"],
    [{ seed: 2n ** 63n }, "spec.seed"],
    [{ seed: 2 ** 53 }, "spec.seed"],
    [{ logprobs: -1 }, "spec.logprobs.top"],
    [{ requestId: "\ud800" }, "spec.request_id"],
    [{ model: 3 }, "spec.model"],
    [{ priority: "urgent" }, "spec.priority"],
    [{ recipe: { rulez: [] } }, "spec.inline_recipe.rulez"],
    [{ overrides: [{ rule: "top_p", p: new Set() }] }, "spec.overrides[0]"],
    [{ constraint: { regex: "\udfff" } }, "spec.constraint.regex"],
  ];
  for (const [options, field] of wrong) {
    await assert.rejects(client.generate("Hello", options), refused(field));
    assert.throws(() => client.stream("Hello", options), refused(field));
  }
  const prompts: [unknown, string][] = [
    [null, "spec.input"],
    [{ role: "user" }, "spec.input"],
    ["broken \ud800 text", "spec.instruction"],
    [[{ role: "user", content: "Hello" }], "spec.conversation.messages[0]"],
    [[{ role: "user", text: "Hi" }, "Hello"], "spec.conversation.messages[1]"],
    [[{ role: "system", text: "Hi" }], "spec.conversation.messages[0].role"],
    [[{ role: "user", text: "\udfff" }], "spec.conversation.messages[0].text"],
  ];
  for (const [prompt, field] of prompts) {
    await assert.rejects(client.generate(prompt as never), refused(field));
  }
  await assert.rejects(client.recipe("\ud800"), refused("name"));
  await assert.rejects(client.validate(null as never), refused("recipe"));
  await assert.rejects(client.tokenize(undefined as never), refused("source"));
  await assert.rejects(client.score("Hello", [-1]), refused("token_ids.ids[0]"));
  // @ts-expect-error: the compiler says so too
  await assert.rejects(client.generate("Hello", { n: 3 }), /unknown option 'n'.*numChoices/);
  await assert.rejects(client.generate("Hello", { unit: "u" }), /need an 'experiment'/);
});

test("TLS and a key open a server", async () => {
  const { server, tlsCa, apiKey } = secured();
  using client = new Client({ server, tlsCa, apiKey });
  assert.equal((await client.stream("Hello", { maxTokens: 2, seed: 1 }).result()).choices.length, 1);
  await assert.rejects(client.experiments.every(), PermissionDenied);
  using nobody = new Client({ server, tlsCa });
  assert.equal(await nobody.health(), "serving");
  await assert.rejects(nobody.models(), (error: unknown) => {
    assert.ok(error instanceof Unauthenticated);
    assert.equal(error.reason, "KEY_MISSING");
    return true;
  });
  using stranger = new Client({ server, apiKey, tlsCa: secured().stranger });
  await assert.rejects(stranger.models({ timeout: 20 }), Unavailable);
});

test("the environment says where and as whom", async () => {
  const { server, tlsCa, apiKey } = secured();
  const variables = { BOSAL_SERVER: server, BOSAL_TLS_CA: tlsCa, BOSAL_API_KEY: `${apiKey}\n` };
  const before = { ...process.env };
  try {
    Object.assign(process.env, variables);
    using client = Client.fromEnvironment();
    assert.equal((await client.models()).length, 1);
    Object.assign(process.env, { BOSAL_TLS_CA: "system", SSL_CERT_FILE: tlsCa });
    using believing = Client.fromEnvironment({ apiKey });
    assert.equal((await believing.models()).length, 1);
  } finally {
    process.env = before;
  }
});

test("files that cannot work are refused before a connection", () => {
  const { tlsCa } = secured();
  const wrong: [object, RegExp][] = [
    [{ tlsCa: "/missing.pem" }, /no such file/],
    [{ tlsCa: Buffer.from("nothing") }, /no certificates of authorities in PEM/],
    [{ tlsCa, clientCertificate: tlsCa }, /go together/],
    [{ tlsCa, clientCertificate: tlsCa, clientKey: tlsCa }, /no certificate and key/],
    [{ clientCertificate: tlsCa, clientKey: tlsCa }, /needs TLS/],
  ];
  for (const [options, said] of wrong) {
    assert.throws(
      () => new Client(options),
      (error: unknown) => error instanceof InvalidRequest && said.test(error.message),
    );
  }
});

function refused(field: string): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof InvalidRequest, String(error));
    assert.equal(error.field, field);
    return true;
  };
}

test("every error is a BosalError with its own name", () => {
  const error = new InternalError("x");
  assert.ok(error instanceof BosalError);
  assert.equal(error.name, "InternalError");
  assert.equal(`${error}`, "InternalError: x");
});
