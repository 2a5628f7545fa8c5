"""electra-qa beside what else one would take: `python -m electra_qa.benchmarks.peers.run`."""
