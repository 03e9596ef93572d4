// openai-node: `chat.completions.stream()`, its stream handed on by `toReadableStream()`, and `.create()`.
// Jobs and answers as in openai_python.py; run with the client's folder as the working folder.
import OpenAI from "openai";
import { ChatCompletionStream } from "openai/lib/ChatCompletionStream";
import { createInterface } from "node:readline";

async function streamed(client, job, asked) {
  const seen = { text_done: [], arguments_done: [], ids: [], roles: [], finishes: [] };
  const body = { ...asked, ...(job.include_usage ? { stream_options: { include_usage: true } } : {}) };
  let stream;
  if (job.handed_on) {
    // As a server does that passes a completion on to a browser: there the library makes completions of it again.
    const raw = await client.chat.completions.create({ ...body, stream: true });
    stream = ChatCompletionStream.fromReadableStream(raw.toReadableStream());
  } else {
    stream = client.chat.completions.stream(body);
  }
  stream.on("content.done", (event) => seen.text_done.push(event.content));
  stream.on("tool_calls.function.arguments.done", (event) =>
    seen.arguments_done.push([event.index, event.name, event.arguments]));
  stream.on("chunk", (chunk) => {
    seen.ids.push(chunk.id);
    for (const choice of chunk.choices) {
      if (choice.delta.role) seen.roles.push(choice.delta.role);
      if (choice.finish_reason) seen.finishes.push(choice.finish_reason);
    }
  });
  const completion = await stream.finalChatCompletion();
  seen.completions = stream.allChatCompletions().length;
  return [completion, seen];
}

function told(completion, seen) {
  const [choice] = completion.choices;
  const usage = completion.usage;
  return {
    id: completion.id,
    model: completion.model,
    role: choice.message.role,
    text: choice.message.content ?? "",
    reasoning: choice.message.reasoning_content ?? "",
    calls: (choice.message.tool_calls ?? []).map((call) => [call.id, call.function.name, call.function.arguments]),
    finish: choice.finish_reason,
    usage: usage ? [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens] : null,
    chiasm: usage?.chiasm ?? null,
    seen,
  };
}

async function answered(job) {
  const client = new OpenAI({ baseURL: job.base_url, apiKey: "dummy", maxRetries: 0 });
  const messages = job.messages;
  const answers = [];
  let error = null;
  try {
    for (;;) {
      const asked = { model: "brain", messages, ...(job.tools.length ? { tools: job.tools } : {}) };
      const [completion, seen] = job.stream
        ? await streamed(client, job, asked)
        : [await client.chat.completions.create(asked), {}];
      const answer = told(completion, seen);
      answers.push(answer);
      if (!answer.calls.length) break;
      messages.push(completion.choices[0].message);
      for (const [id, name] of answer.calls) {
        messages.push({ role: "tool", tool_call_id: id, content: job.results[name] });
      }
    }
  } catch (problem) {
    if (!(problem instanceof OpenAI.OpenAIError)) throw problem;
    error = { type: problem.constructor.name, message: problem.message };
  }
  return { answers, error };
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await answered(JSON.parse(line))));
}
