/** Both clients of this project use the same words for the same things. */

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { ScalarType } from "@bufbuild/protobuf";
import { file_bosal_v1_experiment } from "#dist/gen/bosal/v1/experiment_pb.js";
import { file_bosal_v1_generation } from "#dist/gen/bosal/v1/generation_pb.js";
import { file_bosal_v1_model } from "#dist/gen/bosal/v1/model_pb.js";
import { file_bosal_v1_recipe } from "#dist/gen/bosal/v1/recipe_pb.js";
import { connect, told } from "./liveServer.js";

const client = connect();
const python = told();
after(() => client.close());

// These differ from call to call.
const OWN = ["requestId", "usage", "timings", "controlSeconds", "asOf"];

/** Assert that a value holds all that Python's does; it may hold more. */
function assertTells(found: unknown, wanted: unknown, path: string): void {
  if (wanted === null) {
    assert.equal(found ?? null, null, path);
  } else if (Array.isArray(wanted)) {
    assert.ok(Array.isArray(found), path);
    assert.equal(found.length, wanted.length, path);
    wanted.forEach((one, at) => assertTells(found[at], one, `${path}[${at}]`));
  } else if (typeof wanted === "object") {
    for (const [name, value] of Object.entries(wanted as object)) {
      if (!OWN.includes(name)) {
        assertTells((found as Record<string, unknown>)[name], value, `${path}.${name}`);
      }
    }
  } else if (typeof found === "number" && typeof wanted === "number") {
    // Rows differ in their last digits with what else is in the batch.
    assert.ok(Math.abs(found - wanted) <= 1e-4 * (1 + Math.abs(wanted)), `${path}: ${found}`);
  } else if (found instanceof Date) {
    // The wire's times are finer, and the two round them each in its own way.
    assert.ok(Math.abs(found.getTime() - Date.parse(String(wanted))) <= 1, path);
  } else {
    assert.equal(said(found), wanted, path);
  }
}

function said(value: unknown): unknown {
  if (value instanceof Uint8Array) {
    return Buffer.from(value).toString("hex");
  }
  return typeof value === "bigint" ? String(value) : value;
}

test("an answer", async () => {
  for (const { seed, ...wanted } of python.generations) {
    const options = { seed: BigInt(seed), maxTokens: 8, logprobs: 2, explain: true };
    const { started, ...found } = await client.generate("Hello", options);
    assert.deepEqual(found.choices[0]!.tokenIds, wanted.choices[0].tokenIds);
    const streamed = await client.stream("Hello", options).result();
    for (const answer of [{ started, ...found }, streamed]) {
      assertTells(answer.choices, wanted.choices, "choices");
      assertTells({ ...answer.started, seed }, { ...wanted.started, seed }, "started");
      assert.equal(answer.started.seed, BigInt(seed));
    }
  }
});

test("a server", async () => {
  assertTells(await client.serverInfo(), python.serverInfo, "serverInfo");
  assertTells(await client.models(), python.serverInfo.models, "models");
  assertTells(await client.rules(), python.rules, "rules");
  assert.equal(await client.health(), "serving");
});

test("recipes", async () => {
  assertTells(await client.recipes(), python.recipes, "recipes");
  const validation = await client.validate({ rules: [{ rule: "top_k", k: 2 }] });
  assertTells(validation, python.validation, "validation");
  assert.equal(typeof validation.controlSeconds, "number");
});

test("tokens and scores", async () => {
  assertTells(await client.tokenize("Hello"), python.tokens, "tokens");
  assertTells(await client.score("Hello", "there", { logprobs: 1 }), python.score, "score");
});

test("a report", async () => {
  assertTells(await client.experiments.report("told"), python.report, "report");
});

test("a seed is the contract's only number of 64 bits with a sign", () => {
  // Those are bigints, others numbers: by this name the types tell them apart.
  const files = [file_bosal_v1_generation, file_bosal_v1_model, file_bosal_v1_recipe];
  for (const message of [...files, file_bosal_v1_experiment].flatMap((file) => file.messages)) {
    for (const { name, scalar } of message.fields) {
      assert.equal(scalar === ScalarType.INT64, name === "seed", `${message.name}.${name}`);
    }
  }
});

