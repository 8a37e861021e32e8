"""Regions: boxes from detectors, grids and files; suppression; drawing; what is kept on disk."""

import json

import numpy as np
import pytest
from onnx import TensorProto, helper, save
from PIL import Image

from cliplet.data.images import load_rgb
from cliplet.data.photos import open_photos
from cliplet.errors import InputError, ModelError
from cliplet.regions import FileRegions, GridRegions, OnnxDetector, Regions, draw_regions, make_proposer
from cliplet.regions.nms import overlap, suppress
from cliplet.regions.store import RegionSettings, compute_regions
from tests.shared_data import shared_data

NANO = "yolox-nano/yolox_nano.onnx"


# ---------------------------------------------------------------- boxes
def test_overlap_by_hand():
    box = np.array([0, 0, 2, 2], np.float32)
    others = np.array([[1, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6]], np.float32)
    assert overlap(box, others) == pytest.approx([1 / 7, 1, 0])


def test_suppression_is_by_class_and_keeps_the_surest():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 10, 10], [1, 0, 10, 10], [20, 20, 30, 30]], np.float32)
    scores = np.array([0.6, 0.9, 0.8, 0.5], np.float32)
    assert suppress(boxes, scores, np.array([0, 0, 1, 0]), 0.5).tolist() == [1, 2, 3]
    assert suppress(boxes, scores, np.array([0, 0, 0, 0]), 0.5).tolist() == [1, 3]
    assert suppress(boxes[:0], scores[:0], np.zeros(0, np.int64), 0.5).tolist() == []


def test_suppression_agrees_with_torchvision(torchvision):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 80, (200, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (200, 2))], axis=1).astype(np.float32)
    scores, labels = rng.permutation(200).astype(np.float32), rng.integers(0, 3, 200)
    ops = pytest.importorskip("torchvision.ops")
    try:
        expected = ops.batched_nms(*(torch.from_numpy(v) for v in (boxes, scores, labels)), 0.4)
    except (RuntimeError, NotImplementedError):
        pytest.skip("this torchvision has no compiled nms")
    assert suppress(boxes, scores, labels, 0.4).tolist() == expected.tolist()


def test_crops_are_whole_pixels_inside_the_photo():
    image = Image.new("RGB", (20, 10))
    found = Regions(
        np.array([[2.2, 3.4, 7.6, 9.9], [19.9, 9.9, 20, 10], [0, 0, 20, 10]], np.float32),
        np.ones(3, np.float32),
        np.full(3, -1),
    )
    assert [c.size for c in found.crops(image)] == [(6, 7), (1, 1), (20, 10)]


# ---------------------------------------------------------------- grid
def test_grid_covers_the_photo_with_the_stated_overlap():
    image = Image.new("RGB", (100, 50))
    found = GridRegions((1, 2), overlap=0.5).propose(image)
    assert found.boxes[0] == pytest.approx([0, 0, 100, 50])
    assert found.boxes[1:] == pytest.approx(
        np.array(
            [
                [0, 0, 200 / 3, 100 / 3],
                [100 / 3, 0, 100, 100 / 3],
                [0, 50 / 3, 200 / 3, 50],
                [100 / 3, 50 / 3, 100, 50],
            ]
        )
    )
    assert make_proposer("grid:1,2").name != make_proposer("grid").name


@pytest.mark.parametrize(
    ("source", "message"),
    [("grid:a", "not a list of levels"), ("grid:0", "1 or more"), ("boxes.xml", "no regions from")],
)
def test_wrong_sources_are_named(source, message):
    with pytest.raises(InputError, match=message):
        make_proposer(source)


# ---------------------------------------------------------------- files
def test_boxes_from_jsonl_csv_and_coco(tmp_path):
    image = Image.new("RGB", (100, 100))
    lines = [
        {"image": "folder/a.jpg", "box": [1, 2, 30, 40], "score": 0.5, "label": "dog"},
        {"image": "folder/a.jpg", "x0": 5, "y0": 6, "x1": 500, "y1": 60, "score": 0.9, "label": "cat"},
        {"image": "folder/a.jpg", "box": [1, 2, 30, 40], "score": 0.1, "label": "dog"},
    ]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = make_proposer(str(tmp_path / "b.jsonl"), score=0.2).propose(image, "x/a.jpg")
    assert found.boxes.tolist() == [[5, 6, 100, 60], [1, 2, 30, 40]]
    assert [found.label(i) for i in range(2)] == ["cat", "dog"]
    (tmp_path / "b.csv").write_text("image,x0,y0,x1,y1\na,1,2,30,40\n")
    assert FileRegions(tmp_path / "b.csv").propose(image, "a.jpg").boxes.tolist() == [[1, 2, 30, 40]]
    (tmp_path / "r.json").write_text(
        json.dumps([{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}])
    )
    assert FileRegions(tmp_path / "r.json").propose(image, "000000000007.jpg").boxes.tolist() == [
        [1, 2, 4, 6]
    ]
    coco = {"images": [{"id": 3, "file_name": "c.png"}], "categories": [{"id": 9, "name": "cow"}],
            "annotations": [{"image_id": 3, "category_id": 9, "bbox": [0, 0, 5, 5]}]}  # fmt: skip
    (tmp_path / "c.json").write_text(json.dumps(coco))
    cow = FileRegions(tmp_path / "c.json").propose(image, "c.png")
    assert (cow.label(0), cow.boxes.tolist()) == ("cow", [[0, 0, 5, 5]])
    assert len(FileRegions(tmp_path / "c.json").propose(image, "other.png")) == 0


def test_a_row_without_a_box_is_named(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"image": "a.jpg", "box": [1, 2, 3, 4]}\n{"image": "b.jpg"}\n')
    with pytest.raises(InputError, match="line 2"):
        FileRegions(tmp_path / "b.jsonl")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        FileRegions(tmp_path / "b.json")


# ---------------------------------------------------------------- detectors
def _constant_detector(path, output, size=64, names=None):
    """An ONNX detector that gives the same output for every photo, plus 0 x its input's sum."""
    shape = list(output.shape)
    initial = [
        helper.make_tensor("found", TensorProto.FLOAT, shape, output.astype(np.float32).ravel()),
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
    ]
    nodes = [
        helper.make_node("ReduceSum", ["images"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["found", "nothing"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes, "d",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)], initial,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if names:
        helper.set_model_props(model, {"names": str(names)})
    save(model, path)
    return path


def test_yolov8_output_is_decoded_and_the_letterbox_undone(tmp_path):
    output = np.zeros((1, 4 + 2, 84), np.float32)  # 64 pixels: 64 + 16 + 4 cells
    output[0, :, 5] = [32, 32, 16, 8, 0.1, 0.9]
    output[0, :, 6] = [32, 32, 16, 8, 0.8, 0.2]
    output[0, :, 7] = [33, 32, 16, 8, 0.2, 0.7]  # suppressed by the first
    detector = OnnxDetector(_constant_detector(tmp_path / "d.onnx", output, names={0: "pear", 1: "fig"}))
    assert detector.kind == "yolov8"
    found = detector.propose(Image.new("RGB", (128, 64)))  # scaled by 1/2, 16 rows of padding above
    assert [found.label(i) for i in range(len(found))] == ["fig", "pear"]
    assert found.boxes == pytest.approx(np.array([[48, 24, 80, 40]] * 2))
    assert found.scores == pytest.approx([0.9, 0.8])


@pytest.mark.parametrize("decoded", [False, True])
def test_yolox_output_on_the_grid_and_in_pixels(tmp_path, decoded):
    output = np.zeros((1, 84, 5 + 3), np.float32)
    if decoded:
        output[0, :, :2] = 30
        output[0, 10] = [24, 16, 16, 8, 0.8, 0, 0.5, 0]
    else:  # cell 10 of stride 8 is column 2, row 1
        output[0, 10] = [1, 1, np.log(2), 0, 0.8, 0, 0.5, 0]
    detector = OnnxDetector(_constant_detector(tmp_path / "d.onnx", output), score=0.3)
    assert detector.kind == "yolox"
    found = detector.propose(Image.new("RGB", (64, 32)))
    assert found.boxes == pytest.approx(np.array([[16, 12, 32, 20]]))
    assert (found.label(0), float(found.scores[0])) == ("class 1", pytest.approx(0.4))


def test_what_is_no_detector_is_refused(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"no")
    with pytest.raises(ModelError, match="cannot be loaded"):
        OnnxDetector(tmp_path / "x.onnx")
    with pytest.raises(ModelError, match="cannot be read"):
        OnnxDetector(tmp_path / "none.onnx")


def test_yolox_nano_on_real_photos():
    detector = OnnxDetector(shared_data(NANO))
    photos = open_photos(shared_data("flickr8k/images_dev.tar"))
    expected = {  # what a person sees on these photos
        "1319634306_816f21677f.jpg": {"horse"},
        "1346051107_9cdc14e070.jpg": {"person", "fire hydrant"},
        "1378557186_4bd1da6834.jpg": {"person", "dog"},
    }
    for name, seen in expected.items():
        image = load_rgb(photos.get(name).read_bytes())
        found = detector.propose(image)
        assert {found.label(i) for i in range(len(found))} >= seen
        assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
        assert (found.boxes >= 0).all()
        assert (found.boxes <= 224).all()
        assert (np.diff(found.scores) <= 0).all()
        # the boxes belong to the photo, not to the detector's input: they move with a margin around the photo
        wider = Image.new("RGB", (448, 224), (114, 114, 114))
        wider.paste(image, (100, 0))
        moved = detector.propose(wider)
        same = [i for i in range(len(moved)) if moved.label(i) == found.label(0)]
        assert max(overlap(found.boxes[0] + [100, 0, 100, 0], moved.boxes[same])) > 0.7


def test_transformers_detector_with_random_weights(tmp_path, torchvision):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from cliplet.regions.transformers import TransformersDetector

    torch.manual_seed(0)
    config = transformers.YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[32, 32],
        patch_size=8, num_detection_tokens=5, num_labels=3, use_mid_position_embeddings=False,
    )  # fmt: skip
    transformers.YolosForObjectDetection(config).save_pretrained(tmp_path)
    transformers.YolosImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    detector = TransformersDetector.from_name(str(tmp_path), score=0.0)
    found = detector.propose(Image.new("RGB", (40, 20), (200, 10, 10)))
    assert 1 <= len(found) <= 5
    assert (found.boxes[:, 2] <= 40).all()
    assert (found.boxes[:, 3] <= 20).all()


def test_ultralytics_results_are_read(tmp_path):
    from cliplet.regions.ultralytics import UltralyticsDetector

    class Boxes:  # the three fields of ultralytics.engine.results.Boxes that are read
        xyxy = np.array([[1, 1, 5, 5], [0, 0, 50, 9]], np.float32)
        conf = np.array([0.4, 0.8], np.float32)
        cls = np.array([1.0, 0.0], np.float32)

    class Model:
        def predict(self, image, conf, iou, verbose):
            assert (conf, iou, verbose) == (0.3, 0.45, False)
            return [type("Result", (), {"boxes": Boxes, "names": {0: "cat", 1: "dog"}})]

    found = UltralyticsDetector(Model(), "test").propose(Image.new("RGB", (20, 10)))
    assert found.boxes.tolist() == [[0, 0, 20, 9], [1, 1, 5, 5]]
    assert [found.label(i) for i in range(2)] == ["cat", "dog"]


# ---------------------------------------------------------------- drawing
def test_boxes_are_drawn_on_a_copy():
    image = Image.new("RGB", (120, 80), (255, 255, 255))
    found = Regions(
        np.array([[10, 10, 60, 60]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64), ("dog",)
    )
    drawn = np.asarray(draw_regions(image, found))
    assert (np.asarray(image) == 255).all()
    assert (drawn[40, 10] != 255).any()  # the left edge
    assert (drawn[70, 100] == 255).all()  # far from the box
    assert (drawn[:, 61:] == 255).all() or (drawn[10:30, 11:60] != 255).any()


# ---------------------------------------------------------------- what is kept
def _mean_colours(crops):
    return np.array([np.asarray(c).reshape(-1, 3).mean(axis=0) for c in crops], np.float32)


def test_regions_are_computed_once_and_resume(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"{i}.png" for i in range(5)]
    for name in names:
        Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "3.png").write_bytes(b"broken")
    photos = [tmp_path / n for n in names]
    calls = []

    class Stops(GridRegions):
        def propose(self, image, photo=""):
            calls.append(photo)
            if len(calls) == 4 and photo == "4.png":
                raise KeyboardInterrupt
            return super().propose(image, photo)

    settings = RegionSettings("grid:2")
    arguments = (tmp_path / "kept", photos, names)
    with pytest.raises(KeyboardInterrupt):
        compute_regions(*arguments, Stops((2,)), settings, _mean_colours, "e", step=2)
    assert calls == ["0.png", "1.png", "2.png", "4.png"]
    found = compute_regions(*arguments, GridRegions((2,)), settings, _mean_colours, "e", step=2)
    assert found.starts.tolist() == [0, 5, 10, 15, 15, 20]  # the whole photo and four tiles
    assert list(found.failures) == [3]
    calls.clear()
    again = compute_regions(*arguments, Stops((2,)), settings, _mean_colours, "e", step=2)
    assert calls == []
    assert np.array_equal(again.embeddings, found.embeddings)
    image = load_rgb(photos[1])
    expected = _mean_colours(GridRegions((1, 2)).propose(image).crops(image))
    assert found.embeddings[found.rows(1)] == pytest.approx(expected, rel=2e-3)
    padded, mask = found.padded(np.array([1, 3]))
    assert padded.shape == (2, 5, 3)
    assert mask.tolist() == [[True] * 5, [True] + [False] * 4]  # no region: one zero vector
    assert (padded[1] == 0).all()
    other = compute_regions(
        *arguments, GridRegions((2,)), RegionSettings("grid:2", whole=False), _mean_colours, "e"
    )
    assert other.starts[-1] == 16  # another setting, another file


def test_small_boxes_and_surplus_are_left_out():
    image = Image.new("RGB", (100, 100))
    boxes = np.array([[0, 0, 50, 50], [0, 0, 5, 90], [10, 10, 60, 60], [0, 0, 40, 40]], np.float32)
    found = Regions(boxes, np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.arange(4))
    chosen = RegionSettings(most=2, smallest=0.1).choose(found, image)
    assert chosen.labels.tolist() == [-1, 0, 2]
    assert RegionSettings(most=0, smallest=0.0, whole=False).choose(found, image).labels.tolist() == [
        0,
        1,
        2,
        3,
    ]
