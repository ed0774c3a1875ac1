"""Looking inside: attention maps, rollout, gradient methods, bias tables, and how faithful a map is."""

from regard.explain.bias import bias_tables, neighborhood_index, reversed_index, swin_index
from regard.explain.faithfulness import Faithfulness, center_map, faithfulness, random_map
from regard.explain.features import cam_targets, reshape_transform
from regard.explain.looking import attention_maps, class_attention, look_from, rollout, token_weights
from regard.explain.maps import AttentionMap
from regard.explain.methods import METHODS, explain, receptive_field
from regard.explain.page import write_page
from regard.explain.pictures import bias_grids, bias_sheet, check_format, overlay, save
from regard.explain.record import Call, record
from regard.explain.tokens import Tokens, resize

__all__ = [
    "METHODS",
    "AttentionMap",
    "Call",
    "Faithfulness",
    "Tokens",
    "attention_maps",
    "bias_grids",
    "bias_sheet",
    "bias_tables",
    "cam_targets",
    "center_map",
    "check_format",
    "class_attention",
    "explain",
    "faithfulness",
    "look_from",
    "neighborhood_index",
    "overlay",
    "random_map",
    "receptive_field",
    "record",
    "reshape_transform",
    "resize",
    "reversed_index",
    "rollout",
    "save",
    "swin_index",
    "token_weights",
    "write_page",
]
