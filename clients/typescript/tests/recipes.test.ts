import assert from "node:assert/strict";
import { after, test } from "node:test";
import { InvalidRequest, NotFound } from "@bosal/client";
import { connect } from "./liveServer.js";

const client = connect();
after(() => client.close());

test("a recipe is kept, found, versioned and archived", async () => {
  const document = { name: "brief-ts", rules: [{ rule: "top_p", p: 0.5 }] };
  const created = await client.createRecipe(document);
  assert.equal(created.source, "created");
  assert.ok(created.createdAt instanceof Date);
  assert.deepEqual(created.document.rules, document.rules);
  const text = "name: brief-ts\nrules:\n  - {rule: top_p, p: 0.6}\n";
  const newer = await client.createRecipe(text);
  assert.notEqual(newer.version, created.version);
  assert.equal((await client.recipe("brief-ts")).version, newer.version);
  const pinned = await client.recipe(`brief-ts@${created.version}`);
  assert.deepEqual(pinned.document, created.document);
  const versions = await client.recipes({ versionsOf: "brief-ts" });
  assert.deepEqual(
    versions.map((one) => one.version),
    [newer.version, created.version],
  );
  const { started } = await client.generate("Hello", { recipe: "brief-ts", maxTokens: 1 });
  assert.equal(started.recipeVersion, newer.version);
  assert.equal((await client.archiveRecipe("brief-ts")).length, 2);
  assert.ok((await client.recipe("brief-ts")).archivedAt instanceof Date);
  await assert.rejects(client.generate("Hello", { recipe: "brief-ts" }), /archived/);
});

test("a recipe is compiled without running it", async () => {
  const recipe = { rules: [{ rule: "token_weights", weights: { I: -5 }, if_missing: "skip" }] };
  const { rules, document, version } = await client.validate(recipe);
  assert.equal(rules[0]!.rule, "token_weights");
  assert.deepEqual(document.rules, recipe.rules);
  assert.equal((await client.validate(JSON.stringify(recipe))).version, version);
});

test("what a document may not hold is named, here or by the server", async () => {
  const wrong: [object, RegExp][] = [
    [{ rulez: [] }, /^recipe\.rulez$/],
    [{ rules: [{ rule: "top_p", p: 1n }] }, /^recipe\.rules\[0\]/],
    [{ rules: [{ rule: "top_p", p: Number.NaN }] }, /^recipe\.rules\[0\]/],
    [{ rules: [{ rule: "top_p", p: new Map() }] }, /^recipe\.rules\[0\]/],
    [{ rules: [{ rule: 3 }] }, /^recipe\.rules\[0\]\.rule$/],
    [{ rules: "top_p" }, /^recipe\.rules$/],
    [{ scaffold: "plain" }, /^recipe\.scaffold$/],
    [{ constraint: { regex: "a", choice: ["a"] } }, /^recipe\.constraint$/],
    [{ constraint: { regexp: "a" } }, /^recipe\.constraint\.regexp$/],
    [{ constraint: { choice: "a" } }, /^recipe\.constraint\.choice$/],
    [{ constraint: { regex: "a", allow_unsupported: 1 } }, /allow_unsupported$/],
    [{ rules: [{ rule: "top_p", q: 1 }] }, /rules\[0\]/],
    [{ rules: [{ rule: "top_pp" }] }, /rules\[0\]/],
  ];
  for (const [document, field] of wrong) {
    await assert.rejects(client.validate(document as never), (error: unknown) => {
      assert.ok(error instanceof InvalidRequest || error instanceof NotFound, String(error));
      assert.match(error.field, field);
      return true;
    });
  }
});

test("what is undefined is not given", async () => {
  const rules = [{ rule: "top_p", p: 0.5, scope: undefined }];
  const { document } = await client.validate({ name: undefined, rules, constraint: undefined });
  assert.deepEqual(document.rules, [{ rule: "top_p", p: 0.5 }]);
});
