/** What a connection is told: where to, for how long, on whose behalf. */

import { Metadata, type ChannelOptions } from "@grpc/grpc-js";
import { InvalidRequest } from "./errors.js";
import { shown } from "./params.js";

export const DEFAULT_SERVER = "127.0.0.1:50051";

const SERVICES = ["GenerationService", "RecipeService", "ModelService", "ExperimentService"];

// UNAVAILABLE before the first message is tried again; the server may have begun, and knows a
// request that comes twice by its request id.
const SERVICE_CONFIG = JSON.stringify({
  methodConfig: [
    {
      name: SERVICES.map((service) => ({ service: `bosal.v1.${service}` })),
      retryPolicy: {
        maxAttempts: 4,
        initialBackoff: "0.1s",
        maxBackoff: "2s",
        backoffMultiplier: 3,
        retryableStatusCodes: ["UNAVAILABLE"],
      },
    },
  ],
});

const IDLE_MS = 300_000;
// The server takes a ping each half minute.
const KEEPALIVE_MS = 60_000;
const KEEPALIVE_TIMEOUT_MS = 20_000;
const LOOPBACK = /^(127\.|localhost|\[::1\]|ipv4:127\.|unix:)/;
const URL = /^(https?|grpcs?):\/\//;
// A later deadline is none: no timer waits so long.
const LONGEST_SECONDS = 30 * 365 * 86_400;

/** Return the options of a channel to `server`; what is no address of one is an error. */
export function channelOptions(server: string): ChannelOptions {
  if (typeof server !== "string" || server === "") {
    throw new InvalidRequest("the server's address is empty", { field: "server" });
  }
  if (URL.test(server)) {
    const address = server.replace(URL, "").replace(/\/+$/, "");
    throw new InvalidRequest(`the server is named HOST:PORT, not as a URL: ${shown(address)}`, {
      field: "server",
    });
  }
  return {
    "grpc.service_config": SERVICE_CONFIG,
    // A name server has no say in it.
    "grpc.service_config_disable_resolution": 1,
    "grpc.max_receive_message_length": -1,
    // Leaves before the server closes a connection that nobody uses.
    "grpc.client_idle_timeout_ms": IDLE_MS,
    // A call without a timeout ends when nothing is at the other end any more.
    "grpc.keepalive_time_ms": KEEPALIVE_MS,
    "grpc.keepalive_timeout_ms": KEEPALIVE_TIMEOUT_MS,
    // A proxy named in the environment cannot reach this machine's own loopback.
    ...(LOOPBACK.test(server) && { "grpc.enable_http_proxy": 0 }),
  };
}

/** Return the headers of every call: whose it is. A key no header may hold is not repeated. */
export function headers(apiKey: string): Metadata {
  const found = new Metadata();
  if (apiKey) {
    const place = apiKey.search(/[^!-~]/);
    if (place >= 0) {
      const where = `at ${place} of ${apiKey.length}`;
      throw new InvalidRequest(`the API key holds a character that no header may, ${where}`, {
        field: "apiKey",
      });
    }
    found.set("authorization", `Bearer ${apiKey}`);
  }
  return found;
}

/** Return when a call that may take so many seconds is given up; undefined: never. */
export function deadline(timeout: number | undefined): Date | undefined {
  if (timeout === undefined) {
    return undefined;
  }
  if (typeof timeout !== "number" || Number.isNaN(timeout)) {
    throw new InvalidRequest(`timeout: seconds, not ${shown(timeout)}`, { field: "timeout" });
  }
  return timeout < LONGEST_SECONDS ? new Date(Date.now() + timeout * 1000) : undefined;
}
