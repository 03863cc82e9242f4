"""Corpora: a teacher's logs to lessons, lessons to conversations, conversations to a trainer's format."""

from ctd_agent.distill.corpus.card import Card
from ctd_agent.distill.corpus.lessons import Gates
from ctd_agent.distill.corpus.make import Recipe, make_corpus

__all__ = ["Card", "Gates", "Recipe", "make_corpus"]
