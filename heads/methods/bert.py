"""BERT as described by DRIN (4.2): the mention's text and the entity's by a pretrained text encoder, and their
similarity. No images."""

from heads.config.bert import BertConfig
from heads.methods._towers import Pretrained


class Bert(Pretrained):
    """Frozen; a Linear of each side stands for the fine-tuning of MIMIC's table."""

    config: BertConfig
