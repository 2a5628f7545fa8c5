"""`electra-qa answer`: from a file of questions to a file of answers."""
