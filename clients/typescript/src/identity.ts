/** Who a client is, and whom it believes: what its connection needs beside an address. */

import { X509Certificate } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import * as tls from "node:tls";
import { credentials, type ChannelCredentials } from "@grpc/grpc-js";
import { InvalidRequest } from "./errors.js";

/** An API key and TLS files, each of which may be missing. */
export interface Identity {
  readonly apiKey?: string | undefined;
  /** Authorities that vouch for the server: a file in PEM, its content, or `system`. */
  readonly tlsCa?: string | Uint8Array | undefined;
  /** A file in PEM, or its content. */
  readonly clientCertificate?: string | Uint8Array | undefined;
  readonly clientKey?: string | Uint8Array | undefined;
}

const SYSTEM = "system";
// Where this machine keeps them: Debian, Fedora, SUSE, Alpine and macOS.
const SYSTEM_FILES = [
  "/etc/ssl/certs/ca-certificates.crt",
  "/etc/pki/tls/certs/ca-bundle.crt",
  "/etc/ssl/ca-bundle.pem",
  "/etc/ssl/cert.pem",
];
const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/** Read BOSAL_API_KEY, BOSAL_TLS_CA, BOSAL_CLIENT_CERTIFICATE and BOSAL_CLIENT_KEY. */
export function identityFromEnvironment(environment: NodeJS.ProcessEnv): Identity {
  return {
    // A key that was read from a file ends with its line.
    apiKey: environment.BOSAL_API_KEY?.trim(),
    tlsCa: environment.BOSAL_TLS_CA,
    clientCertificate: environment.BOSAL_CLIENT_CERTIFICATE,
    clientKey: environment.BOSAL_CLIENT_KEY,
  };
}

/**
 * Return what a channel is made with. A file that is missing, does not hold what it should, or does
 * not go with the other is an error before any connection.
 */
export function channelCredentials(identity: Identity): ChannelCredentials {
  const { tlsCa, clientCertificate, clientKey } = identity;
  if (!clientCertificate !== !clientKey) {
    throw new InvalidRequest("a client's certificate and its key go together");
  }
  if (!tlsCa) {
    if (clientCertificate) {
      throw new InvalidRequest("a client's certificate needs TLS: name authorities, tlsCa");
    }
    return credentials.createInsecure();
  }
  const authorities = tlsCa === SYSTEM ? ofThisMachine() : content(tlsCa);
  checkAuthorities(authorities, typeof tlsCa === "string" ? tlsCa : "tlsCa");
  if (!clientCertificate || !clientKey) {
    return credentials.createSsl(authorities);
  }
  const certificate = content(clientCertificate);
  const key = content(clientKey);
  checkPair(certificate, key);
  return credentials.createSsl(authorities, key, certificate);
}

/** Read what OpenSSL trusts here; node's own list is not this machine's, so it is never used. */
function ofThisMachine(): Buffer {
  const { SSL_CERT_FILE: file, SSL_CERT_DIR: folder } = process.env;
  if (file) {
    return content(file);
  }
  if (folder) {
    const names = reading(() => readdirSync(folder)).filter((name) => /\.\d$/.test(name));
    return Buffer.concat(names.sort().map((name) => content(join(folder, name))));
  }
  for (const place of SYSTEM_FILES) {
    try {
      return readFileSync(place);
    } catch {
      // Another system's.
    }
  }
  return Buffer.alloc(0);
}

function checkAuthorities(authorities: Buffer, named: string): void {
  try {
    const found = authorities.toString("latin1").match(CERTIFICATE) ?? [];
    found.forEach((one) => new X509Certificate(one));
    if (found.length > 0) {
      return;
    }
  } catch {
    // Said below.
  }
  const where = named === SYSTEM ? "this machine" : named;
  throw new InvalidRequest(`${where} has no certificates of authorities in PEM`);
}

/** Refuse what would only fail every handshake. */
function checkPair(cert: Buffer, key: Buffer): void {
  try {
    tls.createSecureContext({ cert, key });
  } catch (error) {
    const why = error instanceof Error ? error.message : "they cannot be read";
    throw new InvalidRequest(
      `clientCertificate and clientKey are no certificate and key: ${why}`,
    );
  }
}

function content(source: string | Uint8Array): Buffer {
  if (typeof source !== "string") {
    return Buffer.from(source);
  }
  return reading(() => readFileSync(source));
}

function reading<Read>(read: () => Read): Read {
  try {
    return read();
  } catch (error) {
    throw new InvalidRequest((error as Error).message);
  }
}
