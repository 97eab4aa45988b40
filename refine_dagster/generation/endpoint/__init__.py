"""Generation by servers with OpenAI's interface: vLLM, SGLang, llama.cpp, Ollama, hosted ones."""
