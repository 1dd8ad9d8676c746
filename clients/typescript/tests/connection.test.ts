import assert from "node:assert/strict";
import { createServer, type AddressInfo } from "node:net";
import { test } from "node:test";
import { create, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { credentials, status } from "@grpc/grpc-js";
import {
  BosalError,
  Cancelled,
  Client,
  DeadlineExceeded,
  InternalError,
  Unavailable,
} from "@bosal/client";
import { Channel } from "#dist/channel.js";
import { channelOptions, headers } from "#dist/connection.js";
import { GenerateStreamResponseSchema, GenerationService } from "#dist/gen/bosal/v1/generation_pb.js";
import { LONG, connect, idle, refused } from "./liveServer.js";
import { ToyServer } from "./toyServer.js";

const STARTED = written({ event: { case: "started", value: {} } });
const FINISHED = written({ event: { case: "finished", value: {} } });
const STREAM = "/bosal.v1.GenerationService/GenerateStream";

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
  const stream = client.stream("Hello", LONG);
  await stream.started();
  const call = client.generate("Hello", LONG);
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
  assert.ok(await idle());
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

test("every error is a BosalError with its own name", () => {
  const error = new InternalError("x");
  assert.ok(error instanceof BosalError);
  assert.equal(error.name, "InternalError");
  assert.equal(`${error}`, "InternalError: x");
});

test("a failure behind the last event is an error as any other", async () => {
  const toy = new ToyServer();
  toy.stream(STREAM, function* () {
    yield STARTED;
    yield FINISHED;
    throw { code: status.UNAVAILABLE, details: "gone" };
  });
  using client = new Client({ server: await toy.address() });
  await assert.rejects(client.stream("Hi").result(), isGone);
  await assert.rejects(async () => {
    for await (const _ of client.stream("Hi"));
  }, isGone);
  toy.close();
});

test("a stream that ends early says so", async () => {
  const toy = new ToyServer();
  toy.stream(STREAM, () => [STARTED]);
  using client = new Client({ server: await toy.address() });
  await assert.rejects(client.stream("Hi").result(), InternalError);
  toy.close();
});

test("a server that vanishes ends the calls that wait for it", async () => {
  const settings = Buffer.from("000000040000000000" + "000000040100000000", "hex");
  const vanishing = createServer((socket) => {
    socket.unref();
    socket.on("error", () => {}).on("data", () => {});
    socket.write(settings);
  }).listen(0, "127.0.0.1");
  await new Promise((resolve) => vanishing.once("listening", resolve));
  const server = `127.0.0.1:${(vanishing.address() as AddressInfo).port}`;
  const options = channelOptions(server);
  assert.equal(options["grpc.keepalive_time_ms"], 60_000);
  const hasty = {
    ...options,
    "grpc.keepalive_time_ms": 300,
    "grpc.keepalive_timeout_ms": 300,
    "grpc.enable_retries": 0,
  };
  const channel = new Channel(server, credentials.createInsecure(), hasty, headers(""), 120);
  const incoming = channel.stream(GenerationService.method.generateStream, {}, {});
  await assert.rejects(incoming.next(), Unavailable);
  channel.close();
  vanishing.unref();
});

test("a proxy is not asked for this machine", () => {
  for (const local of ["127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/run/x"]) {
    assert.equal(channelOptions(local)["grpc.enable_http_proxy"], 0);
  }
  for (const remote of ["10.1.2.3:50051", "example.org:443"]) {
    assert.ok(!("grpc.enable_http_proxy" in channelOptions(remote)));
  }
});

function written(event: MessageInitShape<typeof GenerateStreamResponseSchema>): Uint8Array {
  return toBinary(GenerateStreamResponseSchema, create(GenerateStreamResponseSchema, event));
}

function isGone(error: unknown): boolean {
  return error instanceof Unavailable && error.message === "gone";
}
