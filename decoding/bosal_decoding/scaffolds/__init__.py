"""Scaffolds: how a conversation becomes the text a base model continues, one file each."""

from bosal_decoding.scaffolds.catalogue import SCAFFOLDS, read_scaffold
from bosal_decoding.scaffolds.markers import neutralise
from bosal_decoding.scaffolds.plain import PlainScaffold
from bosal_decoding.scaffolds.scaffold import Message, Rendered, Scaffold

__all__ = [
    "SCAFFOLDS",
    "Message",
    "PlainScaffold",
    "Rendered",
    "Scaffold",
    "neutralise",
    "read_scaffold",
]
