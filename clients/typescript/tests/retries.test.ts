import assert from "node:assert/strict";
import { test } from "node:test";
import { Metadata, status, type ServiceError } from "@grpc/grpc-js";
import { BosalError, Client, Unavailable } from "@bosal/client";
import { ToyServer } from "./toyServer.js";

const SOON = { "grpc-retry-pushback-ms": "1" };

/** Ask a server whose ListModels fails the first times, with these trailers. */
async function asked(
  numFailures: number,
  code: status,
  trailers: Record<string, string> = {},
): Promise<{ numCalls: number; error?: unknown }> {
  let numCalls = 0;
  const toy = new ToyServer();
  toy.answer("/bosal.v1.ModelService/ListModels", () => {
    numCalls += 1;
    if (numCalls > numFailures) {
      return new Uint8Array();
    }
    const metadata = new Metadata();
    Object.entries(trailers).forEach(([name, value]) => metadata.set(name, value));
    throw { code, details: "not now", metadata } as ServiceError;
  });
  using client = new Client({ server: await toy.address() });
  try {
    assert.deepEqual(await client.models(), []);
    return { numCalls };
  } catch (error) {
    return { numCalls, error };
  } finally {
    toy.close();
  }
}

test("an unavailable server is tried again, four times in all", async () => {
  assert.deepEqual(await asked(2, status.UNAVAILABLE), { numCalls: 3 });
  const { numCalls, error } = await asked(100, status.UNAVAILABLE, SOON);
  assert.equal(numCalls, 4);
  assert.ok(error instanceof Unavailable);
  assert.equal(error.message, "not now");
});

test("a server that is too busy is not tried again without being told to", async () => {
  const { numCalls, error } = await asked(1, status.RESOURCE_EXHAUSTED, SOON);
  assert.equal(numCalls, 1);
  assert.ok(error instanceof BosalError);
});

test("a server says when to try again, or not to", async () => {
  assert.deepEqual(await asked(3, status.UNAVAILABLE, SOON), { numCalls: 4 });
  const never = { "grpc-retry-pushback-ms": "-1" };
  const { numCalls, error } = await asked(1, status.UNAVAILABLE, never);
  assert.equal(numCalls, 1);
  assert.ok(error instanceof Unavailable);
});
