"""Small random checkpoints, each saved by its own library in its own format."""

import json
from pathlib import Path

import torch

WORDS = [
    *("a", "the", "of", "in", "and", "ship", "city", "team", "person", "red", "blue", "green", "one", "two", "three"),
    *("old", "young", "with", "without", "name", "mention", "sentence", "probe", "noel", "harrison", "powers"),
]
CLIP_SIZES = {"width": 16, "heads": 2, "layers": 2, "vocab_size": 49408}


def bert(folder: Path, seed: int = 0, **config) -> Path:
    from transformers import (  # type: ignore[attr-defined]  # the library's lazy names
        BertConfig,
        BertModel,
        BertTokenizerFast,
    )

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *(f"##{letter}" for letter in letters),
        *"0123456789.,-()'",
        *WORDS[1:],
    ]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)) + "\n")
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"), do_lower_case=True)
    tokenizer.save_pretrained(folder)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        **config,
    }
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).eval().save_pretrained(folder)
    return folder


def open_clip_model(folder: Path, seed: int = 0) -> Path:
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
        "text_cfg": {"context_length": 32, **CLIP_SIZES},
    }
    model = open_clip.CLIP(**config)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    preprocess = {
        "size": [32, 32],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    return folder


def hf_clip(folder: Path, seed: int = 0) -> Path:
    from transformers import CLIPConfig, CLIPModel

    bert(folder)
    torch.manual_seed(seed)
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    size = len((folder / "vocab.txt").read_text().split())
    common = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **common,
            "vocab_size": size,
            "max_position_embeddings": 32,
            "eos_token_id": 3,
            "bos_token_id": 2,
            "pad_token_id": 0,
        },
        vision_config={**common, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    CLIPModel(config).eval().save_pretrained(folder)
    processor = {
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
        "size": {"shortest_edge": 32},
        "resample": 3,
    }
    (folder / "preprocessor_config.json").write_text(
        json.dumps({**processor, "image_mean": [0.5] * 3, "image_std": [0.25] * 3})
    )
    return folder


def resnet(folder: Path, seed: int = 0, file: str = "model.safetensors") -> Path:
    from safetensors.torch import save_file
    from torchvision.models import ResNet
    from torchvision.models.resnet import BasicBlock

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    state = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=7).state_dict()
    if file.endswith(".pth"):
        torch.save(state, folder / file)
    else:
        save_file(state, folder / file)
    config = {
        "architecture": "ResNet",
        "kwargs": {"block": "BasicBlock", "layers": [1, 1, 1, 1], "num_classes": 7},
        "preprocess": {"crop_size": 64},
    }
    (folder / "torchvision.json").write_text(json.dumps(config))
    return folder


def hf_resnet(folder: Path, seed: int = 0) -> Path:
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(seed)
    ResNetModel(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic")
    ).eval().save_pretrained(folder)
    processor = {"size": {"shortest_edge": 56}, "crop_pct": 0.875, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def vit(folder: Path, seed: int = 0) -> Path:
    from safetensors.torch import save_file
    from torchvision.models import VisionTransformer

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    kwargs = {
        "image_size": 32,
        "patch_size": 8,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 32,
        "mlp_dim": 64,
        "num_classes": 5,
    }
    save_file(VisionTransformer(**kwargs).state_dict(), folder / "model.safetensors")
    (folder / "torchvision.json").write_text(
        json.dumps({"architecture": "VisionTransformer", "kwargs": kwargs, "preprocess": {"crop_size": 32}})
    )
    return folder


def hf_vit(folder: Path, seed: int = 0) -> Path:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    ViTModel(config).eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 32, "width": 32}, "resample": 2}))
    return folder


def yolo_model(seed: int = 0, classes: tuple[str, ...] = ("person", "ship", "tower", "face")):
    """A YOLOv8 an eighth as wide, random but not blind: its batch norms have seen pictures, so that what it finds
    depends on the picture."""
    from pipeline.models.detectors import yolo

    tasks = yolo.library()
    architecture = {**tasks.yaml_model_load("yolov8n.yaml"), "nc": len(classes), "scales": {"n": [0.33, 0.0625, 256]}}
    torch.manual_seed(seed)
    model = tasks.DetectionModel(architecture, ch=3, nc=len(classes), verbose=False)
    model.names = dict(enumerate(classes))
    with torch.no_grad():
        for level in model.model[-1].cv3:
            level[-1].weight.normal_(0, 1)
            level[-1].bias.fill_(-1)
        for _ in range(20):
            model.train()(torch.rand(4, 3, 64, 64).pow(3))
    return model.eval()


def yolo(folder: Path, seed: int = 0) -> Path:
    from pipeline.models.detectors import yolo as detector

    detector.save(yolo_model(seed), folder, 64)
    return folder


def yolo_pickled(folder: Path, seed: int = 0) -> Path:
    """As ultralytics' own trainer saves: the model itself, pickled."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": yolo_model(seed), "train_args": {"imgsz": 64}}, folder / "best.pt")
    return folder / "best.pt"


def hf_classifier(
    folder: Path, seed: int = 0, labels: tuple[str, ...] = ("Ada Lovelace", "Noel Harrison", "Barack_Obama")
) -> Path:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        initializer_range=0.5,
        id2label=dict(enumerate(labels)),
        label2id={name: number for number, name in enumerate(labels)},
    )
    ViTForImageClassification(config).eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 32, "width": 32}, "resample": 2}))
    return folder


def inception(folder: Path, seed: int = 0, classes: int = 7) -> Path:
    """Full size: the library has no smaller one."""
    from facenet_pytorch import InceptionResnetV1

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    state = InceptionResnetV1(classify=True, num_classes=classes).state_dict()
    state["logits.weight"] *= 50  # so that the likeliest class depends on the face
    torch.save(state, folder / "vggface2.pt")
    return folder / "vggface2.pt"


def onnx_recogniser(
    folder: Path, seed: int = 0, shape: tuple = (1, 3, 112, 112), width: int = 8, output: tuple | None = None
) -> Path:
    """A convolution, a global average and a matrix; `shape` may hold names where the size is open, channels stand first
    or last."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(seed)
    weights = {"kernel": generator.normal(size=(16, 3, 8, 8)), "matrix": generator.normal(size=(16, width))}
    nodes = [
        helper.make_node("Conv", ["nchw", "kernel"], ["grid"], strides=[8, 8]),
        helper.make_node("Relu", ["grid"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["vector"]),
    ]
    first = (
        helper.make_node("Identity", ["faces"], ["nchw"])
        if shape[1] == 3
        else helper.make_node("Transpose", ["faces"], ["nchw"], perm=[0, 3, 1, 2])
    )
    graph = helper.make_graph(
        [first, *nodes],
        "recogniser",
        [helper.make_tensor_value_info("faces", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, output or (shape[0], width))],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    folder.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "recogniser.onnx")
    return folder / "recogniser.onnx"


def deepface_weights(folder: Path, seed: int = 0, attributes: tuple[str, ...] = ("age", "emotion")) -> Path:
    """Full size, in DeepFace's own format; scaled so that a picture's contents reach the output."""
    import importlib
    import os

    os.environ["DEEPFACE_BACKEND_ENGINE"] = "pytorch"
    from pipeline.models.recognisers.deepface import MODELS

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for attribute in attributes:
        name, file, _ = MODELS[attribute]
        with torch.device("meta"):
            model = importlib.import_module(f"deepface.models.demography.pytorch.{name}").base_model()
        state = {
            key: torch.randn(value.shape).mul_((2 / value[0].numel()) ** 0.5)
            if value.ndim > 1
            else torch.zeros(value.shape)
            for key, value in model.state_dict().items()
        }
        torch.save(state, folder / file)
    return folder


def faster_rcnn(folder: Path, seed: int = 0) -> Path:
    sizes = {"min_size": 64, "max_size": 96, "rpn_pre_nms_top_n_test": 50, "rpn_post_nms_top_n_test": 20}
    return torchvision_detector(folder, seed, "fasterrcnn_mobilenet_v3_large_320_fpn", **sizes)


def torchvision_detector(folder: Path, seed: int, architecture: str, **kwargs) -> Path:
    """A whole detector of torchvision's, random but not blind: its batch norms have seen pictures, its class scores are
    spread over (0, 1)."""
    import torchvision

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    kwargs = {"num_classes": 4, **kwargs}
    model = torchvision.models.get_model(architecture, weights=None, weights_backbone=None, **kwargs).eval()
    pictures = [torch.rand(3, 64, 64).pow(3) for _ in range(2)]
    classes = [
        module
        for name, module in model.named_modules()
        if name.endswith(("cls_score", "cls_logits")) or ".classification_head.module_list." in name
    ]
    classes = [module for module in classes if hasattr(module, "weight") and "BatchNorm" not in type(module).__name__]

    def spread(module, inputs):
        module.weight.normal_(0, 2 / (float(inputs[0].std()) + 1e-6) / module.weight[0].numel() ** 0.5)
        if module.bias is not None:
            module.bias.zero_()

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.train().momentum = 0.5
        for _ in range(4):
            model.backbone(torch.stack(pictures))
        model.eval()
        handles = [module.register_forward_pre_hook(spread) for module in classes]
        model(pictures)
        for handle in handles:
            handle.remove()
    torch.save(model.state_dict(), folder / "model.pth")
    config = {
        "architecture": architecture,
        "kwargs": kwargs,
        "categories": ["__background__", "person", "ship", "tower"],
    }
    (folder / "torchvision.json").write_text(json.dumps(config))
    return folder


def mtcnn(folder: Path, seed: int = 0) -> Path:
    """The weights that come with facenet-pytorch; another seed disturbs them."""
    import facenet_pytorch

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted((Path(facenet_pytorch.__file__).parent / "data").glob("*.pt")):
        state = torch.load(file, weights_only=True)
        torch.save(
            {name: value + seed * 1e-3 * torch.randn_like(value) for name, value in state.items()}, folder / file.name
        )
    return folder


def vgg(folder: Path, seed: int = 0) -> Path:
    """A whole VGG-11.

    Its large tensors are overlapping windows of a few numbers, so that the file of half a gigabyte takes a few
    kilobytes.
    """
    from torchvision.models import vgg11

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in vgg11(num_classes=2).state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        inner = shape[1:].numel()
        if len(shape) == 1:
            state[name] = torch.zeros(shape)
        else:
            few = torch.randn(inner + shape[0]) * (2 / inner) ** 0.5
            state[name] = few.as_strided((shape[0], inner), (1, 1)).as_strided(
                shape, (1, *torch.empty(shape[1:], device="meta").stride())
            )
    torch.save(state, folder / "vgg11-0123abcd.pth")
    (folder / "torchvision.json").write_text(
        json.dumps({"architecture": "vgg11", "kwargs": {"num_classes": 2}, "preprocess": {"crop_size": 32}})
    )
    return folder


def letters_tokenizer(folder: Path, first: str | None = None, last: str | None = "<eos>", pad: bool = False):
    """A fast tokenizer of single characters and words of two, without a padding token unless `pad`, as decoders'
    folders have it. first, last: special tokens that begin and end each text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(WORDS)], trainer)
    around = [first, "$A", last]
    names = {name: backend.token_to_id(name) for name in (first, last) if name}
    if names:
        backend.post_processor = processors.TemplateProcessing(
            single=" ".join(filter(None, around)), special_tokens=list(names.items())
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", bos_token="<bos>", **({"pad_token": "<pad>"} if pad else {})
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def decoder(folder: Path, seed: int = 0, family: str = "Qwen3", **tokenizer) -> Path:
    """A small decoder of a transformers family, as its library saves it."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    size = len(letters_tokenizer(folder, **tokenizer))
    common = {"vocab_size": size, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": None}
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 64,
    }
    if family == "GPT2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(**common, **sizes)
    getattr(transformers, f"{family}Model")(config).eval().save_pretrained(folder)
    return folder


def qwen3(folder: Path, seed: int = 0) -> Path:
    return decoder(folder, seed)


def sentence_model(folder: Path, transformer: Path, *after, prompts: dict | None = None, **config) -> Path:
    """A folder of sentence-transformers, saved by it. after: makes the modules after the transformer, each from the
    width that it is given."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

    first = Transformer(str(transformer), **config)
    modules, width = [first], 32
    for make in after:
        modules.append(make(width))
        widths = [getattr(modules[-1], name, None) for name in ("pooling_output_dimension", "out_features")]
        width = next((each for each in widths if each), width)
    model = SentenceTransformer(modules=modules, prompts=prompts, device="cpu")
    model.eval().save(str(folder))
    return folder


def siglip_tokenizer(folder: Path):
    """Pads with the end token, as SigLIP's does."""
    tokenizer = letters_tokenizer(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.model_input_names = ["input_ids"]
    tokenizer.save_pretrained(folder)
    return tokenizer


def hf_siglip(folder: Path, seed: int = 0, any_shape: bool = False) -> Path:
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    common = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**common, "vocab_size": len(siglip_tokenizer(folder)), "max_position_embeddings": 64}
    name, vision = "Siglip", {**common, "image_size": 32, "patch_size": 8}
    if any_shape:
        name, vision = "Siglip2", {**common, "patch_size": 8, "num_patches": 16}
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=vision)
    model = getattr(transformers, f"{name}Model")(config).eval()
    randomise(model)
    model.save_pretrained(folder)
    sizes = {"patch_size": 8, "max_num_patches": 20} if any_shape else {"size": {"height": 32, "width": 32}}
    getattr(transformers, f"{name}ImageProcessor")(**sizes, resample=2).save_pretrained(folder)
    return folder


def hf_siglip2(folder: Path, seed: int = 0) -> Path:
    return hf_siglip(folder, seed, any_shape=True)


def randomise(model) -> None:
    """Values of every parameter, so that what starts as zero (tokens, biases, attention pools) is seen."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3 if parameter.ndim > 1 else 0.1)


def open_clip_of(folder: Path, config: dict, seed: int = 0, tokenizer: bool = False, size: int = 32) -> Path:
    """Any architecture of open_clip with random weights; `tokenizer`: one of transformers, as SigLIP's is saved."""
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer:
        vocabulary = len(siglip_tokenizer(folder))
        config = {**config, "text_cfg": {**config["text_cfg"], "vocab_size": vocabulary}}
    torch.manual_seed(seed)
    kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    model = kind(**config).eval()
    randomise(model)
    save_file(
        {name: value.clone().contiguous() for name, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    preprocess = {"size": [size, size], "mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(
        json.dumps(
            {"model_cfg": {**config, "custom_text": True}, "preprocess_cfg": {**preprocess, "interpolation": "bicubic"}}
        )
    )
    return folder


SMALL_TEXT = {"context_length": 32, **CLIP_SIZES}
SMALL_VISION = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
SIGLIP_TEXT = {
    "context_length": 64,
    "hf_tokenizer_name": "siglip",
    "tokenizer_kwargs": {"clean": "canonicalize"},
    "width": 16,
    "heads": 2,
    "layers": 2,
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6},
}


def timm_towers() -> None:
    """Registers small towers with timm, of the architectures that open_clip's models name."""
    import timm
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    if timm.is_model("small_siglip"):
        return
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}

    def own(options):
        return {name: options[name] for name in ("num_classes", "global_pool") if name in options}

    def small_siglip(**options):
        return VisionTransformer(**{**small, "class_token": False, "global_pool": "map", **own(options)})

    def small_eva(**options):
        eva = {"use_rot_pos_emb": True, "ref_feat_shape": (4, 4), "swiglu_mlp": True, "scale_mlp": True}
        return Eva(**{**small, "qkv_fused": False, "num_reg_tokens": 2, **eva, **own(options)})

    for make in (small_siglip, small_eva):
        make.__module__ = __name__
        timm.models.register_model(make)


def open_clip_siglip(folder: Path, seed: int = 0) -> Path:
    timm_towers()
    vision = {"image_size": 32, "timm_model_name": "small_siglip", "timm_pool": "map", "timm_proj": "none"}
    return open_clip_of(folder, {"embed_dim": 32, "vision_cfg": vision, "text_cfg": SIGLIP_TEXT}, seed, tokenizer=True)


def open_clip_eva(folder: Path, seed: int = 0) -> Path:
    timm_towers()
    vision = {"image_size": 32, "timm_model_name": "small_eva", "timm_pool": "token", "timm_proj": None}
    return open_clip_of(folder, {"embed_dim": 24, "vision_cfg": vision, "text_cfg": SMALL_TEXT}, seed)


def open_clip_convnext(folder: Path, seed: int = 0) -> Path:
    vision = {"image_size": 64, "timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear"}
    return open_clip_of(folder, {"embed_dim": 24, "vision_cfg": vision, "text_cfg": SMALL_TEXT}, seed, size=64)


def open_clip_coca(folder: Path, seed: int = 0) -> Path:
    text = {**SMALL_TEXT, "embed_cls": True, "output_tokens": True}
    vision = {**SMALL_VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    decoder = {**SMALL_TEXT, "attn_pooler_heads": 2}
    return open_clip_of(
        folder, {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, "multimodal_cfg": decoder}, seed
    )


def open_clip_clipa(folder: Path, seed: int = 0) -> Path:
    """CLIPA: both ways, the mean of the patches and of no class token's place."""
    text = {**SIGLIP_TEXT, "context_length": 40}
    vision = {**SMALL_VISION, "pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True}
    return open_clip_of(folder, {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}, seed, tokenizer=True)


def open_clip_eos(folder: Path, seed: int = 0) -> Path:
    """As MetaCLIP 2 is saved: causal, pooled at the tokenizer's end token."""
    text = {**SMALL_TEXT, "hf_tokenizer_name": "xlm", "pool_type": "eos", "eos_id": 1}
    return open_clip_of(folder, {"embed_dim": 24, "vision_cfg": SMALL_VISION, "text_cfg": text}, seed, tokenizer=True)


VIT_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "patch_size": 8,
    "image_size": 32,
}


def vision_tower(folder: Path, family: str, seed: int = 0, **options) -> Path:
    """A Vision Transformer of any transformers family, as its library saves it."""
    import transformers

    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(**{**VIT_SIZES, **options})
    model = getattr(transformers, f"{family}Model")(config).eval()
    positions = {name: value.clone() for name, value in model.state_dict().items() if "position_embeddings" in name}
    randomise(model)
    if family == "ViTMAE":  # sines, which are no parameters of its own
        model.load_state_dict(positions, strict=False)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        )
    )
    return folder


def dinov2_registers(folder: Path, seed: int = 0) -> Path:
    return vision_tower(folder, "Dinov2WithRegisters", seed, num_register_tokens=3)


def dinov3(folder: Path, seed: int = 0) -> Path:
    return vision_tower(folder, "DINOv3ViT", seed, num_register_tokens=4)


def siglip_vision(folder: Path, seed: int = 0) -> Path:
    return vision_tower(folder, "SiglipVision", seed)


def vit_mae(folder: Path, seed: int = 0) -> Path:
    return vision_tower(folder, "ViTMAE", seed)


def text_family(folder: Path, family: str, **options) -> Path:
    """A small text model of any transformers family with random weights, and a tokenizer with all special tokens."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    size = len(letters_tokenizer(folder, first="<bos>", pad=True))
    ids = {"vocab_size": size, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**ids, **options)
    config.architectures = [f"{family}Model"]  # of several models for one configuration, the one meant
    model = transformers.AutoModel.from_config(config).eval()
    randomise(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.fill_(1)
    model.save_pretrained(folder)
    return folder
