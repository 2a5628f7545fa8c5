"""CamemBERT: a French RoBERTa with a vocabulary of sentencepiece's."""

from __future__ import annotations

from .xlm_roberta import XlmRoberta

family = XlmRoberta()
