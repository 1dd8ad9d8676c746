import type { MessageInitShape } from "@bufbuild/protobuf";
import { invalidField } from "./errors.js";
import { Role, type ConversationSchema } from "./gen/bosal/v1/generation_pb.js";

/** One turn of a conversation. */
export interface Message {
  readonly role: "user" | "assistant";
  readonly text: string;
}

/** What is asked: an instruction, or a conversation that ends with the user. */
export type Prompt = string | readonly Message[];

/** Say something as the user. */
export function user(text: string): Message {
  return { role: "user", text };
}

/** Say something as the assistant. */
export function assistant(text: string): Message {
  return { role: "assistant", text };
}

const ROLES = new Map<unknown, Role>([
  ["user", Role.USER],
  ["assistant", Role.ASSISTANT],
]);

type Input =
  | { case: "instruction"; value: string }
  | { case: "conversation"; value: MessageInitShape<typeof ConversationSchema> };

/** Write a prompt; `field` is the message that holds it. */
export function promptInput(prompt: Prompt, field: string): Input {
  if (typeof prompt === "string") {
    return { case: "instruction", value: prompt };
  }
  if (!Array.isArray(prompt)) {
    throw invalidField(`${field}.input`, "a prompt is text or a list of messages");
  }
  const messages = prompt.map((turn: Message, index) => {
    const where = `${field}.conversation.messages[${index}]`;
    if (typeof turn !== "object" || turn === null || typeof turn.text !== "string") {
      throw invalidField(where, "a message is user(TEXT) or assistant(TEXT)");
    }
    const role = ROLES.get(turn.role);
    if (role === undefined) {
      throw invalidField(`${where}.role`, `user or assistant, not ${JSON.stringify(turn.role)}`);
    }
    return { role, text: turn.text };
  });
  return { case: "conversation", value: { messages } };
}
