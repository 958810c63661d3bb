"""What edge and cloud must agree on: messages, ledger, sampling, wire, transports, tokenizer, errors, traces, models."""
