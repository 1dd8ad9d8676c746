import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { ServerCredentials } from "@grpc/grpc-js";
import {
  Client,
  InvalidRequest,
  PermissionDenied,
  Unauthenticated,
  Unavailable,
} from "@bosal/client";
import { refused, secured } from "./liveServer.js";
import { ToyServer } from "./toyServer.js";

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
  await assert.rejects(stranger.models({ timeout: 60 }), Unavailable);
});

test("a server may want a certificate of the client too", async () => {
  const { tlsCa, clientCertificate, clientKey, serverCertificate, serverKey } = secured();
  const content = (file: string | undefined) => readFileSync(file!);
  const pair = { cert_chain: content(serverCertificate), private_key: content(serverKey) };
  const toy = new ToyServer();
  toy.answer("/bosal.v1.ModelService/ListModels", () => new Uint8Array());
  const server = await toy.address(ServerCredentials.createSsl(content(tlsCa), [pair], true));
  using client = new Client({ server, tlsCa, clientCertificate, clientKey });
  assert.deepEqual(await client.models(), []);
  using given = new Client({
    server,
    tlsCa: content(tlsCa),
    clientCertificate: content(clientCertificate),
    clientKey: content(clientKey),
  });
  assert.deepEqual(await given.models(), []);
  using stranger = new Client({ server, tlsCa });
  await assert.rejects(stranger.models({ timeout: 60 }), Unavailable);
  toy.close();
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
  const { tlsCa, clientCertificate, serverKey } = secured();
  const wrong: [object, RegExp][] = [
    [{ tlsCa: "/missing.pem" }, /no such file/],
    [{ tlsCa: Buffer.from("nothing") }, /no certificates of authorities in PEM/],
    [{ tlsCa, clientCertificate: tlsCa }, /go together/],
    [{ tlsCa, clientCertificate: tlsCa, clientKey: tlsCa }, /no certificate and key/],
    [{ tlsCa, clientCertificate, clientKey: serverKey }, /no certificate and key/],
    [{ clientCertificate: tlsCa, clientKey: tlsCa }, /needs TLS/],
  ];
  for (const [options, said] of wrong) {
    assert.throws(
      () => new Client(options),
      (error: unknown) => error instanceof InvalidRequest && said.test(error.message),
    );
  }
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
