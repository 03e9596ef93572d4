cat > .aider.conf.yml <<'END'
model: "openai/@MODEL@"
openai-api-base: "@URL@/v1"
show-model-warnings: false
END
cat > .aider.model.metadata.json <<'END'
{
  "openai/@MODEL@": {
    "litellm_provider": "openai",
    "mode": "chat",
    "max_input_tokens": @CONTEXT@,
    "max_output_tokens": @OUTPUT@,
    "supports_vision": true
  }
}
END
export OPENAI_API_KEY="@KEY@"
