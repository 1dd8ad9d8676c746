/** The servers that whoever runs the tests has started, by environment variables. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Client, InvalidRequest } from "@bosal/client";

export const ENDLESS = [{ rule: "logit_bias", ids: { "0": -1000 } }];
/** Takes long, and more than a connection holds unread: it never ends before it is cancelled. */
export const LONG = { maxTokens: 400, numChoices: 8, logprobs: 5, overrides: ENDLESS };

/** A client of the open server. */
export function connect(): Client {
  return new Client({ server: variable("BOSAL_TEST_SERVER") });
}

/** What another client of this project says of the same server. */
export function told(): Record<string, any> {
  return JSON.parse(readFileSync(variable("BOSAL_TEST_TOLD"), "utf8"));
}

/** A server that wants TLS and a key. */
export function secured(): { server: string; tlsCa: string; apiKey: string } & Record<string, string> {
  return JSON.parse(variable("BOSAL_TEST_SECURED"));
}

/** Scrape one sample of the open server; 0 where there is none yet. */
export async function metric(name: string, label = ""): Promise<number> {
  const text = await (await fetch(variable("BOSAL_TEST_METRICS"))).text();
  const lines = text.split("\n").filter((line) => line.startsWith(name) && line.includes(label));
  return lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
}

/** Wait for what another process does in its own time. */
export async function eventually(condition: () => Promise<boolean>): Promise<boolean> {
  for (let tries = 0; tries < 400; tries += 1) {
    if (await condition()) {
      return true;
    }
    await sleep(50);
  }
  return false;
}

/** Whether an error refuses a request for this field. */
export function refused(field: string): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof InvalidRequest, String(error));
    assert.equal(error.field, field);
    return true;
  };
}

/** Wait until nothing runs on the open server, or waits to. */
export async function idle(): Promise<boolean> {
  return await eventually(
    async () =>
      (await metric("bosal_running_groups")) + (await metric("bosal_waiting_groups")) === 0,
  );
}

function variable(name: string): string {
  const value = process.env[name];
  if (value === undefined) {
    throw new Error(`${name} is not set: tests/clients/test_typescript.py sets it`);
  }
  return value;
}
