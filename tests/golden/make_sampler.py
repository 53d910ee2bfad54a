#!/usr/bin/env python3
"""Writes sampler.json: what transformers' own logits processors make of seeded rows (packages: requirements.txt)."""

import json
import pathlib

import torch
from transformers import RepetitionPenaltyLogitsProcessor, TypicalLogitsWarper

VOCAB = 40


def repetition(rows):
    cases = []
    for penalty in (0.5, 1.1, 1.8):
        for row in rows:
            ids = torch.randint(0, VOCAB, (1, 12))
            out = RepetitionPenaltyLogitsProcessor(penalty)(ids, row.clone()[None])[0]
            cases.append({"penalty": penalty, "logits": row.tolist(), "ids": ids[0].tolist(), "out": out.tolist()})
    return cases


def typical(rows):
    cases = []
    for mass in (0.2, 0.5, 0.9, 0.99):
        for row in rows:
            out = TypicalLogitsWarper(mass)(None, row.clone()[None])[0]
            kept = [i for i in range(VOCAB) if out[i] > -float("inf")]
            cases.append({"typical_p": mass, "logits": row.tolist(), "kept": kept})
    return cases


def main():
    torch.manual_seed(11)
    rows = [torch.randn(VOCAB) * spread for spread in (0.3, 1, 2.5, 6)]
    path = pathlib.Path(__file__).with_name("sampler.json")
    path.write_text(json.dumps({"vocab": VOCAB, "repetition": repetition(rows), "typical": typical(rows)}) + "\n")


main()
