import assert from "node:assert/strict";
import { test } from "node:test";
import { connect, refused } from "./liveServer.js";

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
