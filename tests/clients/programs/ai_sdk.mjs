// Vercel AI SDK with @ai-sdk/openai-compatible: `streamText` and `generateText`, which run the tool loop themselves.
// Jobs and answers as in openai_python.py; run with the client's folder as the working folder.
import { generateText, isStepCount, jsonSchema, streamText, tool } from "ai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { createInterface } from "node:readline";

const part = (one) =>
  one.type === "image_url" ? { type: "file", mediaType: "image/png", data: new URL(one.image_url.url) } : one;

function told(step) {
  return {
    id: step.response.id,
    model: step.response.modelId,
    role: "assistant",
    text: step.text,
    reasoning: step.reasoningText ?? "",
    calls: step.toolCalls.map((call) => [call.toolCallId, call.toolName, JSON.stringify(call.input)]),
    finish: step.finishReason === "tool-calls" ? "tool_calls" : step.finishReason,
    usage: step.usage.inputTokens === undefined
      ? null
      : [step.usage.inputTokens, step.usage.outputTokens, step.usage.totalTokens],
    chiasm: step.usage.raw?.chiasm ?? null,
  };
}

async function answered(job) {
  const provider = createOpenAICompatible({
    name: "chiasm",
    baseURL: job.base_url,
    apiKey: "dummy",
    includeUsage: job.include_usage,
  });

  const messages = job.messages.map((message) => ({
    ...message,
    content: Array.isArray(message.content) ? message.content.map(part) : message.content,
  }));
  const tools = Object.fromEntries(
    job.tools.map(({ function: { name, description, parameters } }) => [
      name,
      tool({ description, inputSchema: jsonSchema(parameters), execute: async () => job.results[name] }),
    ]),
  );

  const seen = { errors: [], text_blocks: [], reasoning_blocks: [], finishes: 0, calls: [] };
  const asked = {
    model: provider("brain"),
    messages,
    tools,
    stopWhen: isStepCount(4),
    maxRetries: 0,
  };

  let steps = [];
  let error = null;
  try {
    if (job.stream) {
      const result = streamText({ ...asked, onError: () => {} });
      const open = {};
      for await (const event of result.fullStream) {
        if (event.type === "text-start") open[`t${event.id}`] = seen.text_blocks.push("") - 1;
        else if (event.type === "text-delta") seen.text_blocks[open[`t${event.id}`]] += event.text;
        else if (event.type === "reasoning-start") open[`r${event.id}`] = seen.reasoning_blocks.push("") - 1;
        else if (event.type === "reasoning-delta") seen.reasoning_blocks[open[`r${event.id}`]] += event.text;
        else if (event.type === "tool-call") seen.calls.push([event.toolCallId, event.toolName]);
        else if (event.type === "finish-step") seen.finishes += 1;
        else if (event.type === "error") {
          seen.errors.push(event.error?.message ?? String(event.error?.error?.message ?? JSON.stringify(event.error)));
          error = { type: event.error?.name ?? "error", message: seen.errors[0] };
        }
      }
      steps = await result.steps;
    } else {
      steps = (await generateText(asked)).steps;
    }
  } catch (problem) {
    error ??= { type: problem.name, message: problem.message };
  }
  const answers = steps.map(told);
  if (answers.length) answers[0].seen = seen;
  return { answers, error };
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await answered(JSON.parse(line))));
}
