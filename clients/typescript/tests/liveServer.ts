/** The servers that whoever runs the tests has started, by environment variables. */

import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Client } from "@bosal/client";

export const ENDLESS = [{ rule: "logit_bias", ids: { "0": -1000 } }];

/** A client of the open server. */
export function connect(): Client {
  return new Client({ server: variable("BOSAL_TEST_SERVER") });
}

/** What another client of this project says of the same server. */
export function told(): Record<string, any> {
  return JSON.parse(readFileSync(variable("BOSAL_TEST_TOLD"), "utf8"));
}

/** A server that wants TLS and a key. */
export function secured(): { server: string; tlsCa: string; apiKey: string; stranger: string } {
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

function variable(name: string): string {
  const value = process.env[name];
  if (value === undefined) {
    throw new Error(`${name} is not set: tests/clients/test_typescript.py sets it`);
  }
  return value;
}
