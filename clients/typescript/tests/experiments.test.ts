import assert from "node:assert/strict";
import { after, test } from "node:test";
import { InvalidRequest, NotFound, type ExperimentDocument } from "@bosal/client";
import { connect } from "./liveServer.js";

const client = connect();
const { experiments } = client;
experiments.actor = "typescript";
after(() => client.close());

// Nobody else's, so that one server may be asked twice.
const LED = `led-${process.pid}`;
const ONCE = `once-${process.pid}`;

function document(name: string): ExperimentDocument {
  return {
    name,
    variants: [
      { key: "control", recipe: "plain", weight: 0.5, control: true },
      { key: "ruled", recipe: { rules: [{ rule: "top_k", k: 3 }] }, weight: 0.5 },
    ],
    metrics: [
      { name: "liked", kind: "proportion", direction: "increase", role: "primary" },
      { name: "total_ms", kind: "quantile", level: 0.5, direction: "decrease", role: "secondary" },
    ],
    planned_units: 200,
    retention_days: 30,
  };
}

test("an experiment is led from draft to promotion", async () => {
  const draft = await experiments.create(document(LED));
  assert.equal(draft.state, "draft");
  assert.equal(draft.retention, 30 * 86_400);
  assert.deepEqual(draft.variants[1]!.inlineRecipe?.rules, [{ rule: "top_k", k: 3 }]);
  assert.equal((await experiments.start(LED, { etag: draft.etag })).state, "running");
  await assert.rejects(
    experiments.stop(LED, { etag: draft.etag }),
    (error: unknown) => error instanceof InvalidRequest && error.reason === "STALE_ETAG",
  );
  const options = { experiment: LED, unit: "u1", maxTokens: 2 };
  const { assignment } = (await client.generate("Hello", options)).started;
  assert.equal(assignment!.reason, "assigned");
  const same = await experiments.assign(LED, "u1");
  assert.equal(same.variant, assignment!.variant);
  for await (const report of experiments.watch(LED, { interval: 0.2 })) {
    assert.equal(
      report.arms.reduce((sum, arm) => sum + arm.units, 0),
      1,
    );
    assert.equal(report.experiment.name, LED);
    break;
  }
  assert.equal((await experiments.updateTraffic(LED, 0.5)).coveragePpm, 500_000);
  const weights = { control: 0.2, ruled: 0.8 };
  const { phases } = await experiments.newPhase(LED, weights);
  assert.deepEqual(phases.at(-1)!.weightsPpm, { control: 200_000, ruled: 800_000 });
  assert.equal((await experiments.promote(LED, "ruled")).state, "promoted");
  const actions = [];
  for await (const event of experiments.audit(LED)) {
    assert.match(event.actor, /typescript/);
    actions.push(event.action);
  }
  assert.equal(actions.at(-1), "CREATE");
  assert.equal(actions.length, 5);
  const names = (await experiments.every()).map((one) => one.name);
  assert.ok(names.includes(LED));
  await assert.rejects(experiments.get(`${LED}-not`), NotFound);
});

test("an outcome counts once", async () => {
  await experiments.create(document(ONCE));
  await experiments.start(ONCE);
  const options = { experiment: ONCE, unit: "u1", maxTokens: 2 };
  const { assignment } = (await client.generate("Hello", options)).started;
  const { exposureId } = assignment!;
  const liked = { name: "liked", value: true, exposureId };
  const status = async (...outcomes: Parameters<typeof experiments.record>[1][]) => {
    const results = await experiments.record(ONCE, outcomes.flatMap((one) => [...one]));
    return results.map((one) => one.status);
  };
  assert.deepEqual(await status([liked]), ["recorded"]);
  assert.deepEqual(await status([liked]), ["duplicate"]);
  const byUnit = { name: "liked", value: true, unit: "u1", idempotencyKey: "click-1" };
  assert.deepEqual(await status([byUnit, byUnit]), ["recorded", "duplicate"]);
  assert.deepEqual(await status([{ ...byUnit, value: false }]), ["rejected"]);
  assert.deepEqual(await status([{ ...liked, name: "loved" }]), ["rejected"]);
  const at = new Date("2026-01-02T03:04:05.678Z");
  await status([{ name: "liked", value: 1, unit: "u1", idempotencyKey: "click-2", at }]);
  let exposures = 0;
  const outcomes = [];
  for await (const page of experiments.export(ONCE)) {
    exposures += page.exposures.length;
    outcomes.push(...page.outcomes);
  }
  assert.equal(exposures, 1);
  assert.equal(outcomes.length, 3);
  assert.deepEqual(await experiments.deleteUnit("u1", ONCE), { exposures: 1, outcomes: 3 });
});

test("a plan says how many units an effect needs", async () => {
  const fixed = await experiments.plan(0.05, { rate: 0.3, method: "fixed" });
  // statsmodels' samplesize_proportions_2indep_onetail(0.05, 0.3, 0.8, alpha=0.025): 1376 an arm.
  assert.ok(Math.abs(fixed.units / 2 - 1376) < 14);
  await assert.rejects(experiments.plan(0.05, { method: "bayes" as never }), InvalidRequest);
});

test("a wrong document names its field", async () => {
  const wrong: [object, string][] = [
    [{ variant: [] }, "variant"],
    [{ variants: {} }, "variants"],
    [{ variants: [{ key: "a", wieght: 1 }] }, "variants[0].wieght"],
    [{ variants: [{ key: "a", weight: 50 }] }, "variants[0].weight"],
    [{ variants: [{ key: "a", control: "no" }] }, "variants[0].control"],
    [{ variants: [{ key: 1 }] }, "variants[0].key"],
    [{ metrics: [{ name: "m", kind: "average" }] }, "metrics[0].kind"],
    [{ metrics: [{ name: "m", level: "x" }] }, "metrics[0].level"],
    [{ coverage: "all" }, "coverage"],
    [{ coverage: Number.NaN }, "coverage"],
    [{ retention_days: Infinity }, "retention_days"],
    [{ namespace: 3 }, "namespace"],
    [{ planned_units: -4 }, "planned_units"],
    [{ planned_units: 0.5 }, "planned_units"],
    [{ name: 2026 }, "name"],
  ];
  for (const [change, field] of wrong) {
    const changed = { ...document("wrong"), ...change } as ExperimentDocument;
    await assert.rejects(experiments.create(changed), (error: unknown) => {
      assert.ok(error instanceof InvalidRequest);
      assert.equal(error.field, field);
      return true;
    });
  }
});
