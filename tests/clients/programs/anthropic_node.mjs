// anthropic-node: `messages.stream()`, `.create()` and `.countTokens()`.  Jobs and answers as in anthropic_python.py; run
// with the client's folder as the working folder.
import Anthropic from "@anthropic-ai/sdk";
import { createInterface } from "node:readline";

const messagesOf = (client, job) => (job.beta ? client.beta.messages : client.messages);

async function streamed(client, job, asked) {
  const seen = { text: "", thinking: "", starts: 0, blocks: [] };
  const stream = messagesOf(client, job).stream(asked);
  stream.on("text", (delta) => { seen.text += delta; });
  stream.on("thinking", (delta) => { seen.thinking += delta; });
  stream.on("contentBlock", (block) => seen.blocks.push(block.type));
  stream.on("streamEvent", (event) => { if (event.type === "message_start") seen.starts += 1; });
  return [await stream.finalMessage(), seen];
}

function told(message, seen) {
  return {
    id: message.id,
    model: message.model,
    role: message.role,
    blocks: message.content,
    finish: message.stop_reason,
    usage: [message.usage.input_tokens, message.usage.output_tokens],
    chiasm: message.usage.chiasm ?? null,
    seen,
  };
}

async function answered(job) {
  const client = new Anthropic({ baseURL: job.base_url, apiKey: "dummy", maxRetries: 0 });
  const { messages, tools } = job;
  const answers = [];
  let error = null;
  try {
    if (job.count) {
      const counted = await client.messages.countTokens({ model: "brain", messages, tools });
      return { answers: [counted.input_tokens], error };
    }
    for (;;) {
      const thinking = { type: "enabled", budget_tokens: 2000 };
      const asked = { model: "brain", max_tokens: 4000, messages, tools, thinking };
      const [message, seen] = job.stream
        ? await streamed(client, job, asked)
        : [await messagesOf(client, job).create(asked), {}];
      answers.push(told(message, seen));
      const calls = message.content.filter((block) => block.type === "tool_use");
      if (!calls.length) break;
      messages.push({ role: "assistant", content: message.content });
      messages.push({
        role: "user",
        content: calls.map(({ id, name }) => ({ type: "tool_result", tool_use_id: id, content: job.results[name] })),
      });
    }
  } catch (problem) {
    if (!(problem instanceof Anthropic.AnthropicError)) throw problem;
    error = { type: problem.constructor.name, message: problem.message };
  }
  return { answers, error };
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await answered(JSON.parse(line))));
}
