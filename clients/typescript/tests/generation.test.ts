import assert from "node:assert/strict";
import { after, test } from "node:test";
import {
  Cancelled,
  IncompleteAnswer,
  InvalidRequest,
  NotFound,
  assistant,
  decidingRules,
  user,
  type Choice,
  type TokenBatch,
} from "@bosal/client";
import { ENDLESS, LONG, connect, eventually, idle, metric } from "./liveServer.js";

const client = connect();
after(() => client.close());

test("a stream can be iterated and then asked for its result", async () => {
  const stream = client.stream("Hello", { maxTokens: 20, seed: 3, requestId: "order-7" });
  let text = "";
  for await (const batch of stream) {
    text += batch.text;
  }
  const result = await stream.result();
  assert.equal(result.text, text);
  assert.equal(result.requestId, "order-7");
  assert.equal((await stream.started()).requestId, stream.requestId);
  for await (const _ of stream) {
    assert.fail("it is over");
  }
});

test("a stream and a call return the same", async () => {
  const options = { maxTokens: 12, seed: 5, logprobs: 2, explain: true, numChoices: 2 };
  const streamed = await client.stream("Hello", options).result();
  const called = await client.generate("Hello", options);
  assert.deepEqual(streamed.choices.map(exact), called.choices.map(exact));
  assert.equal(streamed.choices.length, 2);
  assert.equal(streamed.choices[0]!.logprobs!.topRaw[0]!.tokenIds.length, 2);
  assert.deepEqual(Object.keys(streamed).sort(), Object.keys(called).sort());
  assert.deepEqual(Object.keys(streamed.choices[0]!).sort(), Object.keys(called.choices[0]!).sort());
});

/** What no rounding touches. */
function exact({ tokenIds, text, finishReason, index }: Choice): unknown {
  return { tokenIds, text, finishReason, index };
}

test("several may wait for one stream, and no batch is lost", async () => {
  const stream = client.stream("Hello", { maxTokens: 20, overrides: ENDLESS });
  const batches: TokenBatch[] = [];
  const read = async () => {
    for await (const batch of stream) {
      batches.push(batch);
    }
  };
  const [started, result] = await Promise.all([stream.started(), stream.result(), read(), read()]);
  assert.equal(started.requestId, result.requestId);
  assert.deepEqual(
    batches.flatMap((batch) => batch.tokenIds),
    result.choices[0]!.tokenIds,
  );
  assert.equal(result.choices[0]!.tokenIds.length, 20);
});

test("an aborted stream ends on the server", async () => {
  const labels = 'reason="CANCELLED"';
  const before = await metric("bosal_finished_choices_total", labels);
  const abort = new AbortController();
  const stream = client.stream("Hello", { ...LONG, signal: abort.signal });
  const iterator = stream[Symbol.asyncIterator]();
  await iterator.next();
  const reason = new Error("enough");
  abort.abort(reason);
  await assert.rejects(
    stream.result(),
    (error: unknown) => error instanceof Cancelled && error.cause === reason,
  );
  assert.ok(
    await eventually(async () => (await metric("bosal_finished_choices_total", labels)) > before),
  );
  assert.ok(await idle());
});

test("leaving the loop cancels", async () => {
  const before = await metric("bosal_errors_total", 'code="CANCELLED"');
  const stream = client.stream("Hello", LONG);
  for await (const _ of stream) {
    break;
  }
  await assert.rejects(stream.result(), Cancelled);
  assert.ok(
    await eventually(async () => (await metric("bosal_errors_total", 'code="CANCELLED"')) > before),
  );
  assert.ok(await idle());
});

test("leaving a block cancels, and a finished stream stays as it is", async () => {
  const finished = client.stream("Hello", { maxTokens: 3 });
  const result = await finished.result();
  let running;
  {
    using left = client.stream("Hello", LONG);
    await left.started();
    running = left;
    finished.cancel();
  }
  await assert.rejects(running.result(), Cancelled);
  assert.deepEqual(await finished.result(), result);
  assert.ok(await idle());
});

test("what is aborted before is never sent", async () => {
  const signal = AbortSignal.abort("no");
  await assert.rejects(client.generate("Hello", { signal }), Cancelled);
  assert.throws(() => client.stream("Hello", { signal }), Cancelled);
});

test("what is aborted as it begins does not run on", async () => {
  const whole = 'reason="MAX_TOKENS"';
  await client.models(); // The connection stands.
  const before = await metric("bosal_finished_choices_total", whole);
  const abort = new AbortController();
  const call = client.generate("Hello", { ...LONG, signal: abort.signal });
  client.stream("Hello", LONG).cancel();
  abort.abort();
  await assert.rejects(call, Cancelled);
  await client.generate("Hello", { maxTokens: 1, overrides: ENDLESS }); // Comes after them.
  assert.ok(await idle());
  assert.equal(await metric("bosal_finished_choices_total", whole), before + 1);
});

test("a seed keeps all its bits", async () => {
  for (const seed of [2n ** 63n - 1n, -(2n ** 63n), 7n]) {
    const { started } = await client.generate("Hello", { seed, maxTokens: 1 });
    assert.equal(started.seed, seed);
  }
  const one = await client.generate("Hello", { seed: 2n ** 60n, maxTokens: 8 });
  const other = await client.generate("Hello", { seed: 2n ** 60n + 1n, maxTokens: 8 });
  assert.notDeepEqual(one.choices[0]!.tokenIds, other.choices[0]!.tokenIds);
});

test("an override and an inline recipe come back as documents", async () => {
  const recipe = {
    scaffold: { kind: "plain" },
    rules: [{ rule: "top_p", p: 0.5 }, { rule: "temperature", value: 0.7 }],
    constraint: { json_schema: { type: "object", properties: { b: {}, a: {} } } },
  };
  const overrides = [{ rule: "top_p", p: 0.9 }];
  const { started } = await client.generate("Hello", { recipe, overrides, maxTokens: 30 });
  assert.equal(started.recipeName, "inline");
  assert.deepEqual(started.overrides, overrides);
  assert.deepEqual(started.recipe.rules, [{ rule: "top_p", p: 0.9 }, recipe.rules[1]]);
  assert.deepEqual(started.recipe.constraint, {
    json_schema: '{"type":"object","properties":{"b":{},"a":{}}}',
  });
  assert.notEqual(started.baseVersion, started.recipeVersion);
});

test("a conversation is a prompt", async () => {
  const turns = [user("Hello"), assistant("Hi."), user("Bye")];
  const recipe = { scaffold: { kind: "turns" } };
  const [sequence] = await client.tokenize({ prompt: turns }, { recipe });
  assert.match(sequence!.text, /Hello[^]*Hi\.[^]*Bye/);
});

test("constraints hold answers to a language", async () => {
  const options = { constraint: { choice: ["yes", "no"] }, seed: 1, maxTokens: 20 };
  const { text, choices } = await client.generate("Well?", options);
  assert.ok(["yes", "no"].includes(text));
  assert.match(choices[0]!.finishReason, /^constraint_|^stop_token/);
});

test("an answer is read as what a schema says", async () => {
  const model = {
    jsonSchema: {
      type: "object",
      properties: { ok: { type: "boolean" } },
      required: ["ok"],
      additionalProperties: false,
    },
    parse: (value: unknown) => (value as { ok: boolean }).ok,
  };
  assert.equal(typeof (await client.generateAs(model, "Well?", { maxTokens: 60, seed: 3 })), "boolean");
  const broken = { ...model, parse: () => assert.fail("no") };
  await assert.rejects(
    client.generateAs(broken, "Well?", { maxTokens: 60, seed: 3 }),
    (error: unknown) => error instanceof IncompleteAnswer && error.text.includes("ok"),
  );
});

test("recipes are compared under one seed", async () => {
  const recipes = ["plain", { recipe: "plain", overrides: ENDLESS }, { rules: [] }];
  const stream = client.compare("Hello", recipes, { maxTokens: 10, seed: 1 });
  const kinds = new Set<string>();
  const read = async () => {
    for await (const event of stream) {
      kinds.add(event.kind);
    }
  };
  const [{ generations, divergences }] = await Promise.all([stream.result(), read()]);
  assert.deepEqual([...kinds].sort(), ["divergence", "tokens"]);
  assert.equal(generations.length, 3);
  assert.deepEqual(
    divergences.map((one) => one.recipe),
    [1, 2],
  );
  for (const { recipe, position, cause } of divergences) {
    const equal =
      JSON.stringify(generations[0]!.choices[0]!.tokenIds) ===
      JSON.stringify(generations[recipe]!.choices[0]!.tokenIds);
    assert.equal(position === undefined, equal);
    assert.equal(cause === "", equal);
  }
  await assert.rejects(async () => client.compare("Hello", "plain").result(), /2 to 8/);
});

test("an answer is scored before and after the rules", async () => {
  const overrides = [{ rule: "allowed_tokens", ids: [6] }];
  const score = await client.score("Hello", [5, 6], { recipe: "plain", overrides });
  assert.deepEqual(score.tokenIds, [5, 6]);
  assert.equal(score.logprobs.controlled[0], -Infinity);
  assert.ok(score.logprobs.raw.every(Number.isFinite));
  const text = await client.score("Hello", "there", { logprobs: 2 });
  assert.equal(text.logprobs.topControlled[0]!.tokenIds.length, 2);
});

test("explanations name the rules that decide", async () => {
  const overrides = [{ rule: "top_k", k: 1 }];
  const options = { overrides, explain: true, maxTokens: 8, seed: 2, recipe: "plain" };
  const [choice] = (await client.generate("Hello", options)).choices;
  const changed = choice!.explanations.filter(
    (one, at) => one.uncontrolledToken !== choice!.tokenIds[at],
  );
  assert.equal(choice!.explanation!.changedTokens, changed.length);
  const deciding = choice!.explanations.flatMap((one, at) =>
    decidingRules(one, choice!.tokenIds[at]!),
  );
  assert.equal(deciding.length, choice!.explanation!.flips.top_k ?? 0);
  assert.ok(deciding.every((rule) => rule === "top_k"));
});

test("what the server refuses names its field", async () => {
  await assert.rejects(
    client.generate("Hello", { overrides: [{ rule: "top_p", p: 3 }] }),
    (error: unknown) => {
      assert.ok(error instanceof InvalidRequest);
      assert.equal(error.name, "InvalidRequest");
      assert.match(error.field, /^spec\.overrides/);
      assert.equal(error.fieldViolations[0]!.field, error.field);
      assert.notEqual(error.reason, "");
      return true;
    },
  );
  await assert.rejects(client.generate("Hello", { recipe: "plan" }), (error: unknown) => {
    assert.ok(error instanceof NotFound);
    assert.match(error.message, /plain/);
    return true;
  });
});
