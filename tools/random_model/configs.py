"""Configurations of random pipelines by family and size: class and arguments of each part.

Sizes named ``real`` have the layers and widths of the published models; ``tiny`` ones their structure.
"""

from __future__ import annotations

from typing import Any

from tools.random_model.tokenizers import CLIP_END, CLIP_START

Part = tuple[str, dict[str, Any]]
Pipeline = dict[str, Part]


def vae(widths: tuple[int, ...], scaling: float, channels: int = 4, **more: Any) -> Part:
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
    }
    return "AutoencoderKL", {
        "block_out_channels": widths,
        "latent_channels": channels,
        "scaling_factor": scaling,
        **blocks,
        **more,
    }


def clip(width: int, layers: int, heads: int, kind: str = "CLIPTextModel", **more: Any) -> Part:
    return kind, {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "bos_token_id": CLIP_START,
        "eos_token_id": CLIP_END,
        "projection_dim": width,
        **more,
    }


def ddpm(start: float = 0.00085, end: float = 0.012, schedule: str = "scaled_linear", **more: Any) -> Part:
    return "DDPMScheduler", {
        "beta_start": start,
        "beta_end": end,
        "beta_schedule": schedule,
        "clip_sample": False,
        **more,
    }


REAL_VAE = vae((128, 256, 512, 512), 0.18215, layers_per_block=2, sample_size=512)
TINY_VAE = vae((16, 32, 32), 0.3, layers_per_block=1, norm_num_groups=8)
TINY_VAE_16 = vae((16, 32), 1.5, 16, layers_per_block=1, norm_num_groups=8, shift_factor=0.06, sample_size=16)
TINY_CLIP = clip(32, 2, 4, vocab_size=600)
TINY_T5: Part = (
    "T5EncoderModel",
    {
        "vocab_size": 250,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
    },
)
BYTES: Part = "CLIPTokenizer", {"length": 77}
CHARACTERS: Part = "T5Tokenizer", {"length": 77}
FLOW: Part = "FlowMatchEulerDiscreteScheduler", {"shift": 3.0}

TINY_UNET = {
    "sample_size": 8,
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
REAL_UNET = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}


def stable_diffusion(unet: dict[str, Any], autoencoder: Part, text: Part, scheduler: Part) -> Pipeline:
    return {
        "unet": ("UNet2DConditionModel", unet),
        "vae": autoencoder,
        "text_encoder": text,
        "tokenizer": BYTES,
        "scheduler": scheduler,
    }


def dit(transformer: dict[str, Any], autoencoder: Part) -> Pipeline:
    arguments = {"in_channels": 4, "out_channels": 8, "patch_size": 2, **transformer}
    return {
        "transformer": ("DiTTransformer2DModel", arguments),
        "vae": autoencoder,
        "scheduler": ddpm(0.0001, 0.02, "linear"),
    }


def deepfloyd(unet: dict[str, Any]) -> Pipeline:
    arguments = {
        "in_channels": 3,
        "out_channels": 6,
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "encoder_hid_dim_type": "text_proj",
        "addition_embed_type": "text",
        "resnet_time_scale_shift": "scale_shift",
        "act_fn": "gelu",
        "cross_attention_norm": "group_norm",
        **unet,
    }
    scheduler = ddpm(0.0001, 0.02, "squaredcos_cap_v2", variance_type="learned_range", thresholding=True)
    return {
        "unet": ("UNet2DConditionModel", arguments),
        "text_encoder": TINY_T5,
        "tokenizer": CHARACTERS,
        "scheduler": scheduler,
    }


TINY_XL: Pipeline = {
    **stable_diffusion(
        {
            **TINY_UNET,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 80,
            "transformer_layers_per_block": (1, 1, 2),
            "attention_head_dim": (4, 8, 8),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 48 + 6 * 8,
        },
        TINY_VAE,
        TINY_CLIP,
        ddpm(),
    ),
    "text_encoder_2": clip(48, 3, 4, "CLIPTextModelWithProjection", vocab_size=600, hidden_act="gelu"),
    "tokenizer_2": BYTES,
}
TINY_IF = deepfloyd(
    {
        "sample_size": 16,
        "block_out_channels": (32, 64, 64),
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"),
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "encoder_hid_dim": 32,
        "attention_head_dim": 8,
        "addition_embed_type_num_heads": 4,
        "norm_num_groups": 8,
    }
)
TINY_PIXART: Pipeline = {
    "transformer": (
        "PixArtTransformer2DModel",
        {
            "num_layers": 3,
            "num_attention_heads": 4,
            "attention_head_dim": 12,
            "cross_attention_dim": 48,
            "caption_channels": 32,
            "sample_size": 8,
            "use_additional_conditions": True,
        },
    ),
    "vae": TINY_VAE,
    "text_encoder": TINY_T5,
    "tokenizer": CHARACTERS,
    "scheduler": ddpm(0.0001, 0.02, "linear"),
}
TINY_SD3: Pipeline = {
    "transformer": (
        "SD3Transformer2DModel",
        {
            "sample_size": 8,
            "num_layers": 3,
            "num_attention_heads": 4,
            "attention_head_dim": 8,
            "caption_projection_dim": 32,
            "joint_attention_dim": 96,
            "pooled_projection_dim": 64,
            "out_channels": 16,
            "pos_embed_max_size": 16,
        },
    ),
    "vae": TINY_VAE_16,
    "text_encoder": clip(32, 2, 4, "CLIPTextModelWithProjection", vocab_size=600),
    "tokenizer": BYTES,
    "text_encoder_2": clip(32, 3, 4, "CLIPTextModelWithProjection", vocab_size=600, hidden_act="gelu"),
    "tokenizer_2": BYTES,
    "text_encoder_3": ("T5EncoderModel", {**TINY_T5[1], "d_model": 96}),
    "tokenizer_3": CHARACTERS,
    "scheduler": FLOW,
}
TINY_FLUX: Pipeline = {
    "transformer": (
        "FluxTransformer2DModel",
        {
            "num_layers": 2,
            "num_single_layers": 2,
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "joint_attention_dim": 32,
            "pooled_projection_dim": 32,
            "axes_dims_rope": (4, 6, 6),
            "guidance_embeds": True,
        },
    ),
    "vae": TINY_VAE_16,
    "text_encoder": TINY_CLIP,
    "tokenizer": BYTES,
    "text_encoder_2": TINY_T5,
    "tokenizer_2": CHARACTERS,
    "scheduler": FLOW,
}
TINY_DIT = {"num_layers": 4, "num_attention_heads": 4, "attention_head_dim": 8, "sample_size": 8, "norm_num_groups": 8}
SD21_UNET = {
    **REAL_UNET,
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
SD21_TEXT = clip(1024, 23, 16, hidden_act="gelu")
V = ddpm(prediction_type="v_prediction")

PIPELINES: dict[str, tuple[str, dict[str, Pipeline]]] = {
    "sd15": (
        "StableDiffusionPipeline",
        {
            "real": stable_diffusion(REAL_UNET, REAL_VAE, clip(768, 12, 12), ddpm(steps_offset=1)),
            "tiny": stable_diffusion(TINY_UNET, TINY_VAE, TINY_CLIP, ddpm(steps_offset=1)),
        },
    ),
    "sd21": (
        "StableDiffusionPipeline",
        {
            "real": stable_diffusion(SD21_UNET, REAL_VAE, SD21_TEXT, V),
            "tiny": stable_diffusion({**TINY_UNET, "use_linear_projection": True}, TINY_VAE, TINY_CLIP, V),
        },
    ),
    "sdxl": ("StableDiffusionXLPipeline", {"tiny": TINY_XL}),
    "dit": ("DiTPipeline", {"real": dit({"sample_size": 32}, REAL_VAE), "tiny": dit(TINY_DIT, TINY_VAE)}),
    "dit512": ("DiTPipeline", {"real": dit({"sample_size": 64}, REAL_VAE)}),
    "if": ("IFPipeline", {"tiny": TINY_IF}),
    "pixart": ("PixArtAlphaPipeline", {"tiny": TINY_PIXART}),
    "sd3": ("StableDiffusion3Pipeline", {"tiny": TINY_SD3}),
    "flux": ("FluxPipeline", {"tiny": TINY_FLUX}),
}
"""Family -> (the pipeline's class, {size: parts})."""
