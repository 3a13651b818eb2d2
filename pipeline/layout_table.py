"""The layouts of the published repositories, as data that both reading and writing follow.

Patterns are those of `tree.match`: `{set}` is the folder of a data set (the read folder itself
where a pattern has none), `{video}` and `{class}` are the video's name, `{frame}` is the stem of a
file. Source: the loaders and READMEs of the repositories and of the DAVSOD benchmark page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Place:
    """One kind of data set in a layout: where its files lie, and what its loader asks of them."""

    img: str
    gt: str
    flow: str | None = None
    depth: str | None = None
    thermal: str | None = None
    stills: bool = False
    """Still pictures. Videos without `{video}` in `img` lie in one folder, as VIDEO_NUMBER."""
    train: bool | None = None
    """True holds training sets alone, False the others, None all."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """Data sets -> their `{set}` here, where it is not their own name or their card's."""
    own_names: bool = False
    """`{set}` is the full name such as DAVIS_train, not the card's such as DAVIS."""
    only: bool = False
    """Data sets in `folders` alone are written here."""
    numbered: bool = False
    """Files are written as VIDEO_NUMBER in the folder of a video too."""
    every_mask: bool = True
    """The loader wants a mask for every frame."""
    rows: str | None = None
    """A file with a row `img gt flow` a frame, which alone says what belongs to the data set."""
    lists: Mapping[str, str] = field(default_factory=dict)
    """Split -> the file that lists its videos."""
    again: tuple[str, str] | None = None
    """Where img and gt stand a second time, among the still pictures."""
    frames_too: bool = False
    """Frames of videos lie among the still pictures."""
    note: str | None = None
    """What to know about files written here."""

    @property
    def flat(self) -> bool:
        """Whether the frames of all videos lie in one folder."""
        return not self.stills and "{video}" not in self.img

    def patterns(self) -> dict[str, str]:
        """Return the pattern of every kind of file that the place has."""
        kinds = ("img", "gt", "flow", "depth", "thermal")
        return {kind: pattern for kind in kinds if (pattern := getattr(self, kind))}


@dataclass(frozen=True, slots=True)
class Layout:
    """One repository's layout; the first place that suits a data set is the one it is written to"""

    title: str
    looks: str
    """An example of its paths, for error messages."""
    places: tuple[Place, ...]
    video_marks: str = ""
    """Characters that its loader cannot have in a video's name."""
    frame_marks: str = ""
    """Characters that its loader cannot have in the stem of a file."""
    why: str = ""
    """Why not."""


ALIASES: dict[str, tuple[str, ...]] = {
    "DUTS": ("DUTS_train",),
    "DUTS-TR": ("DUTS_train",),
    "DUTS-TE": ("DUTS_test",),
    "MSB-TR": ("MSRA-B_train",),
    "MSB-TE": ("MSRA-B_test",),
    "RGBD-TR": ("RGBD-TR_train",),
    "RGBD-TR-2985": ("RGBD-TR_train2985",),
    "STERE1000": ("STERE_test",),
    "VT5000-TR": ("VT5000_train",),
    "VT5000-TE": ("VT5000_test",),
    "VSOD-TR": ("DAVIS_train", "DAVSOD_train"),
    "DAVIS-TE": ("DAVIS_test",),
    "DAVSOD-TE": ("DAVSOD_easy35",),
    "DAVSOD-Normal-25": ("DAVSOD_normal25",),
    "DAVSOD-Difficult-20": ("DAVSOD_difficult20",),
    "Easy-35": ("DAVSOD_easy35",),
    "Normal-25": ("DAVSOD_normal25",),
    "Difficult-20": ("DAVSOD_difficult20",),
    "SegV2": ("SegTrack-V2_test",),
    "VOS_test": ("VOS_test",),
    "YTVOS_train": ("YouTubeVOS_train",),
    "YTobj_test": ("YouTube-Objects_test",),
    "YTOBJ": ("YouTube-Objects_test",),
    "LVID": ("Long-Videos_test",),
    "TrainSet_RGB": ("DUTS_train",),
    "TrainSet_Flow": ("DAVIS_train", "FBMS_train", "DAVSOD_train"),
    "TrainSet_Video": ("DAVIS_train", "FBMS_train", "DAVSOD_train"),
}
"""Folders of the repositories -> the data sets in them; cards tell their videos apart."""

_TEST_SETS = {
    "DAVSOD_easy35": "DAVSOD",
    "DAVSOD_normal25": "DAVSOD-Normal-25",
    "DAVSOD_difficult20": "DAVSOD-Difficult-20",
}
_A2S_STILLS = {
    "DUTS_train": "DUTS-TR",
    "DUTS_test": "DUTS-TE",
    "MSRA-B_train": "MSB-TR",
    "MSRA-B_test": "MSB-TE",
}
_A2S_DEPTH = {
    "RGBD-TR_train": "RGBD-TR",
    "RGBD-TR_train2985": "RGBD-TR-2985",
    "STERE_test": "STERE1000",
}
_A2S_THERMAL = {"VT5000_train": "VT5000-TR", "VT5000_test": "VT5000-TE"}
_A2S_VIDEOS = {
    "DAVIS_train": "VSOD-TR",
    "DAVSOD_train": "VSOD-TR",
    "DAVIS_test": "DAVIS-TE",
    "DAVSOD_easy35": "DAVSOD-TE",
    "SegTrack-V2_test": "SegV2",
    "FBMS_test": "FBMS",
}
_DPA = {"YouTubeVOS_train": "YTVOS_train", "YouTube-Objects_test": "YTobj_test"}


def _tmo(inner: str, folders: Mapping[str, str], only: bool, **lists: str) -> Place:
    """Return a place of TMO's three folders, `inner` being a path with a gap for each of them."""
    return Place(
        inner.format("JPEGImages") + ".jpg",
        inner.format("Annotations") + ".png",
        inner.format("JPEGFlows") + ".jpg",
        folders=folders,
        only=only,
        own_names=True,
        lists=lists,
    )


LAYOUTS: dict[str, Layout] = {
    "dpa": Layout(
        "DPA",
        "NAME/{RGB,GT,FLOW}/video_00000.* or NAME/VIDEO/{RGB,GT,FLOW}/*",
        (
            Place(
                "{set}/RGB/{frame}.jpg",
                "{set}/GT/{frame}.png",
                "{set}/FLOW/{frame}.jpg",
                train=True,
                own_names=True,
                folders=_DPA,
            ),
            Place("{set}/RGB/{frame}.jpg", "{set}/GT/{frame}.png", stills=True, own_names=True),
            Place(
                "{set}/{video}/RGB/{frame}.jpg",
                "{set}/{video}/GT/{frame}.png",
                "{set}/{video}/FLOW/{frame}.jpg",
                train=False,
                own_names=True,
                folders=_DPA,
                numbered=True,
            ),
        ),
        video_marks="_.",
        frame_marks=".",
        why="a video's name ends at the first underscore or dot of a file",
    ),
    "tmo": Layout(
        "TMO",
        "NAME/{JPEGImages,JPEGFlows,Annotations}/VIDEO/*",
        (
            _tmo(
                "{{set}}/{}/480p/{{video}}/{{frame}}",
                {"DAVIS_train": "DAVIS", "DAVIS_test": "DAVIS"},
                True,
                train="{set}/ImageSets/2016/train.txt",
                test="{set}/ImageSets/2016/val.txt",
            ),
            _tmo("{{set}}/TestSet/{}/{{video}}/{{frame}}", {"FBMS_test": "FBMS"}, True),
            _tmo(
                "{{set}}/{}/{{class}}/{{video}}/{{frame}}",
                {"YouTube-Objects_test": "YTOBJ"},
                True,
            ),
            _tmo("{{set}}/{}/{{video}}/{{frame}}", {"Long-Videos_test": "LVID"}, False),
            Place(
                "{set}/JPEGImages/{frame}.jpg",
                "{set}/Annotations/{frame}.png",
                stills=True,
                folders={"DUTS_train": "DUTS"},
                own_names=True,
            ),
        ),
    ),
    "ianet": Layout(
        "IANet",
        "dataset/train/NAME/train.txt with rows `img gt flow`",
        tuple(
            Place(
                f"dataset/{part}/{{set}}{video}/img/{{frame}}.*",
                f"dataset/{part}/{{set}}{video}/gt/{{frame}}.png",
                f"dataset/{part}/{{set}}{video}/flow/{{frame}}.*" if video else None,
                stills=not video,
                train=part == "train",
                folders=_TEST_SETS if video else {"DUTS_train": "DUTS-TR"},
                only=not video,
                rows=f"dataset/{part}/{{set}}/{part}.txt",
                note=None if video else "rows without flow, which its loader replaces by zeros",
            )
            for part, video in (("train", "/{video}"), ("train", ""), ("test", "/{video}"))
        ),
        video_marks=" \t",
        frame_marks=" \t",
        why="rows end a path at a blank",
    ),
    "a2s": Layout(
        "A2S-v2",
        "vsod/NAME/{JPEGImages,Annotations,optical}/VIDEO/*, NAME/{images,segmentations}/*, "
        "RGBD/NAME/{image,depth,mask}/* or RGBT/NAME/{RGB,T,GT}/*",
        (
            Place(
                "vsod/{set}/JPEGImages/{video}/{frame}.*",
                "vsod/{set}/Annotations/{video}/{frame}.png",
                "vsod/{set}/optical/{video}/{frame}.jpg",
                own_names=True,
                folders=_A2S_VIDEOS,
            ),
            Place(
                "RGBD/{set}/image/{frame}.*",
                "RGBD/{set}/mask/{frame}.png",
                depth="RGBD/{set}/depth/{frame}.png",
                stills=True,
                folders=_A2S_DEPTH,
            ),
            Place(
                "RGBT/{set}/RGB/{frame}.*",
                "RGBT/{set}/GT/{frame}.png",
                thermal="RGBT/{set}/T/{frame}.jpg",
                stills=True,
                folders=_A2S_THERMAL,
            ),
            Place(
                "{set}/images/{frame}.*",
                "{set}/segmentations/{frame}.png",
                stills=True,
                folders=_A2S_STILLS,
            ),
        ),
        frame_marks=".",
        why="a file's stem ends at its first dot",
    ),
    "smcf": Layout(
        "SMCF and FSNet",
        "TrainSet_RGB/{Imgs,GTs}/*, TrainSet_Video/{Imgs,Flow,ground-truth}/video_00000.* or "
        "TestSet/NAME/VIDEO/{Frame,GT,OF_FlowNet2}/*",
        (
            *(
                Place(
                    f"{folder}/Imgs/{{frame}}.jpg",
                    f"{folder}/ground-truth/{{frame}}.png",
                    f"{folder}/Flow/{{frame}}.jpg",
                    train=True,
                    again=("TrainSet_RGB/Imgs/{frame}.jpg", "TrainSet_RGB/GTs/{frame}.png"),
                    note=f"in {folder}, which train.py opens, and in TrainSet_RGB for stage 1",
                )
                for folder in ("TrainSet_Flow", "TrainSet_Video")
            ),
            Place(
                "TrainSet_RGB/Imgs/{frame}.jpg",
                "TrainSet_RGB/GTs/{frame}.png",
                stills=True,
                folders={"DUTS_train": "TrainSet_RGB"},
                only=True,
                frames_too=True,
            ),
            Place(
                "TestSet/{set}/{video}/Frame/{frame}.jpg",
                "TestSet/{set}/{video}/GT/{frame}.png",
                "TestSet/{set}/{video}/OF_FlowNet2/{frame}.jpg",
                train=False,
                folders=_TEST_SETS,
                every_mask=False,
            ),
        ),
    ),
    "davsod": Layout(
        "the DAVSOD benchmark",
        "NAME/VIDEO/{Imgs,ground-truth}/* or VIDEO/{Imgs,ground-truth}/*",
        tuple(
            Place(
                f"{above}{{video}}/Imgs/{{frame}}.*",
                f"{above}{{video}}/ground-truth/{{frame}}.png",
                folders={
                    "DAVSOD_normal25": "Normal-25",
                    "DAVSOD_difficult20": "Difficult-20",
                    "SegTrack-V2_test": "SegV2",
                    "VOS_test": "VOS_test",
                },
                numbered=True,
                every_mask=False,
            )
            for above in ("{set}/", "")
        ),
    ),
}
