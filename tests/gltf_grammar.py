"""What glTF files may hold, and all mesh files together: the table of the tests of readers."""

import base64
import gzip
import json
import struct

import numpy as np
from mesh_grammar import (
    CORNERS,
    FACES,
    FORMS,
    OBJ,
    OFF,
    RED,
    SOUP,
    SQUARE,
    STL,
    TRIANGLES,
    Row,
    faces,
    ply,
    ply_rows,
    vertices,
)  # fmt: skip

# fmt: off
COMPONENTS = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
WIDTHS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}


class Gltf:
    """A glTF file under construction: ``array`` adds an accessor and returns its number."""

    def __init__(self):
        self.tree = {"asset": {"version": "2.0"}, "accessors": [], "bufferViews": [], "meshes": []}
        self.binary = b""

    def view(self, content, **more):
        self.binary += b"\0" * (-len(self.binary) % 4)
        self.tree["bufferViews"].append(
            {"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(content), **more}
        )
        self.binary += content
        return len(self.tree["bufferViews"]) - 1

    def accessor(self, array, **more):
        kind = array.dtype.str[1:]
        width = array.shape[1] if array.ndim == 2 else 1
        self.tree["accessors"].append(
            {"componentType": COMPONENTS[kind], "count": len(array), "type": WIDTHS[width], **more}
        )
        return len(self.tree["accessors"]) - 1

    def array(self, values, kind="<f4", **more):
        array = np.array(values, kind)
        return self.accessor(array, bufferView=self.view(array.tobytes()), **more)

    def mesh(self, *primitives, **more):
        self.tree["meshes"].append({"primitives": list(primitives), **more})
        return self

    def finish(self, **more):
        self.tree |= more
        return self

    def shown(self, buffer):
        """The tree; unless it has nodes, one for each mesh, in a scene."""
        nodes = [{"mesh": k} for k in range(len(self.tree["meshes"]))]
        tree = {"nodes": nodes, **self.tree, "buffers": [buffer]}
        below = {child for node in tree["nodes"] for child in node.get("children", [])}
        roots = [k for k in range(len(tree["nodes"])) if k not in below]
        return {"scenes": [{"nodes": roots}], "scene": 0, **tree}

    def glb(self):
        tree = self.shown({"byteLength": len(self.binary)})
        content = json.dumps(tree).encode()
        content += b" " * (-len(content) % 4)
        binary = self.binary + b"\0" * (-len(self.binary) % 4)
        head = struct.pack(
            "<4sIIII", b"glTF", 2, 28 + len(content) + len(binary), len(content), 0x4E4F534A
        )
        return head + content + struct.pack("<II", len(binary), 0x004E4942) + binary

    def gltf(self, uri=None):
        data = "data:application/octet-stream;base64," + base64.b64encode(self.binary).decode()
        buffer = {"byteLength": len(self.binary), "uri": data if uri is None else uri}
        return json.dumps(self.shown(buffer)).encode()


def primitive(g, pos=SQUARE, index=(0, 1, 2, 0, 2, 3), mode=None, kind="<u2", **attributes):
    made = {
        "attributes": {"POSITION": g.array(pos) if isinstance(pos, list) else pos, **attributes}
    }
    if index is not None:
        made["indices"] = g.array(index, kind)
    return made if mode is None else {**made, "mode": mode}


def square_gltf():
    g = Gltf()
    return g.mesh(primitive(g))


def gltf_rows():
    def row(feature, g, *right):
        return Row("glb", feature, g.glb(), *right)

    def one(feature, *right, **options):
        g = Gltf()
        return row(feature, g.mesh(primitive(g, **options)), *right)

    yield row("triangles", square_gltf())
    yield row("no scenes", square_gltf().finish(nodes=[{"mesh": 0}], scenes=[]))
    yield row("no nodes", square_gltf().finish(nodes=[], scenes=[]))
    yield one("indices of one byte", kind="<u1")
    yield one("indices of four bytes", kind="<u4")
    yield one("no indices", *SOUP, pos=CORNERS, index=None)
    yield one("a strip", index=(1, 2, 0, 3), mode=5)
    yield one("a strip with doubled corners", index=(0, 1, 2, 2, 0, 0, 0, 2, 3), mode=5)
    yield one("a fan", index=(0, 1, 2, 3), mode=6)
    yield one("a fan without indices", index=None, mode=6)
    g = Gltf()
    shared = g.array(SQUARE)
    yield row("two materials on one set of vertices", g.mesh(primitive(g, shared, (0, 1, 2)),
         primitive(g, shared, (0, 2, 3))))
    g = Gltf()
    yield row("two primitives", g.mesh(primitive(g, SQUARE[:3], (0, 1, 2)), primitive(g,
         [*SQUARE[2:], [2, 2, 2]], (0, 1, 2))), [*SQUARE[:3], *SQUARE[2:], [2, 2, 2]], [[0, 1, 2],
         [3, 4, 5]])
    g = Gltf()
    yield row("lines and points beside faces", g.mesh(primitive(g, index=(0, 1), mode=1),
         primitive(g), primitive(g, index=None, mode=0)))
    # KHR_mesh_quantization: three.js #12551, assimp #6765
    required = {
        "extensionsUsed": ["KHR_mesh_quantization"],
        "extensionsRequired": ["KHR_mesh_quantization"],
    }
    for kind, top in (("<u2", 65535), ("<i2", 32767), ("<u1", 255), ("<i1", 127)):
        g = Gltf()
        at = g.array(np.array(SQUARE) * top, kind, normalized=True)
        yield row(f"normalised {kind} (three.js #12551, assimp #6765)", g.mesh(primitive(g,
             at)).finish(**required, nodes=[{"mesh": 0, "scale": [2, 2, 2]}]),
             (2 * np.array(SQUARE)).tolist())
        at = (g := Gltf()).array(np.array(SQUARE) * 3, kind)
        yield row(f"whole {kind}", g.mesh(primitive(g, at)).finish(**required),
             (3 * np.array(SQUARE)).tolist())
    g = Gltf()
    at = g.array(np.array(SQUARE) * -127 - np.array([1, 0, 0]), "<i1", normalized=True)
    yield row("the lowest normalised byte is -1", g.mesh(primitive(g, at)).finish(**required),
         [[-1 / 127, 0, 0], [-1, 0, 0], [-1, -1, 0], [-1 / 127, -1, 0]])
    g = Gltf()
    view = g.view(b"".join(struct.pack("<3f4x", *p) for p in SQUARE), byteStride=16)
    at = g.accessor(np.zeros((4, 3), "<f4"), bufferView=view)
    yield row("a stride", g.mesh(primitive(g, at)))
    g = Gltf()
    base = g.array([*SQUARE[:3], [9, 9, 9]])
    rows, values = g.view(struct.pack("<H", 3)), g.view(struct.pack("<3f", 0, 1, 0))
    sparse = {
        "count": 1,
        "indices": {"bufferView": rows, "componentType": 5123},
        "values": {"bufferView": values},
    }
    g.tree["accessors"][base]["sparse"] = sparse
    yield row("sparse values", g.mesh(primitive(g, base)))
    g = Gltf()
    rows, values = (
        g.view(struct.pack("<3B", 1, 2, 3)),
        g.view(np.array(SQUARE[1:], "<f4").tobytes()),
    )
    sparse = {
        "count": 3,
        "indices": {"bufferView": rows, "componentType": 5121},
        "values": {"bufferView": values},
    }
    yield row("sparse values over zeros", g.mesh(primitive(g, g.accessor(np.zeros((4, 3), "<f4"),
         sparse=sparse))))
    for kind, values, more in (
        ("<f4", [1, 0.2, 0], {}),
        ("<u1", [255, 51, 0, 255], {"normalized": True}),
        ("<u2", [65535, 13107, 0, 65535], {"normalized": True}),
    ):
        g = Gltf()
        yield row(f"colours of {kind}", g.mesh(primitive(g, COLOR_0=g.array([values] * 4, kind,
             **more))), SQUARE, FACES, RED)
    # Nodes
    moved = [[x + 5, y, z] for x, y, z in SQUARE]
    yield row("a translation", square_gltf().finish(nodes=[{"mesh": 0, "translation": [5, 0, 0]}]),
         moved)
    yield row("a matrix", square_gltf().finish(nodes=[{"mesh": 0, "matrix": [1, 0, 0, 0, 0, 1, 0, 0,
         0, 0, 1, 0, 5, 0, 0, 1]}]), moved)
    half = 0.5**0.5
    yield row("a rotation, then a translation", square_gltf().finish(nodes=[{"mesh": 0,
         "rotation": [0, 0, half, half], "translation": [5, 0, 0]}]), [[5 - y, x, z] for x, y,
         z in SQUARE])
    yield row("a scale below a translation", square_gltf().finish(nodes=[{"children": [1],
         "translation": [5, 0, 0]}, {"mesh": 0, "scale": [2, 3, 4]}], scenes=[{"nodes": [0]}],
         scene=0), [[5 + 2 * x, 3 * y, 4 * z] for x, y, z in SQUARE])
    yield row("a mirror turns faces", square_gltf().finish(nodes=[{"mesh": 0, "scale": [-1, 1,
         1]}]), [[-x, y, z] for x, y, z in SQUARE], [f[::-1] for f in FACES])
    yield row("a mesh twice", square_gltf().finish(nodes=[{"mesh": 0}, {"mesh": 0,
         "translation": [5, 0, 0]}]), SQUARE + moved, FACES + [[4 + v for v in f] for f in FACES])
    yield row("the default scene alone", square_gltf().finish(nodes=[{"mesh": 0}, {"mesh": 0,
         "translation": [5, 0, 0]}], scenes=[{"nodes": [1]}, {"nodes": [0]}], scene=1))
    g = square_gltf()
    target = g.array([[0, 0, 1]] * 4)
    g.tree["meshes"][0] |= {"weights": [0.5]}
    g.tree["meshes"][0]["primitives"][0]["targets"] = [{"POSITION": target}]
    yield row("a shape key", g, [[x, y, 0.5] for x, y, z in SQUARE])
    yield row("compression that is not required",
         square_gltf().finish(extensionsUsed=["KHR_draco_mesh_compression"]))
    yield Row("gltf", "data in the file", square_gltf().gltf())
    yield Row("gltf", "data in the file, after a byte order mark", b"\xef\xbb\xbf"
         + square_gltf().gltf())
    plain = "data:application/gltf-buffer," + "".join(f"%{b:02x}" for b in square_gltf().binary)
    yield Row("gltf", "data in the file, percent-encoded", square_gltf().gltf(plain))


ROWS = [*OBJ, *OFF, *ply_rows(), *STL, *gltf_rows()]
ROWS += [
    Row(f"{row.ending}.gz", f"packed: {row.feature}", gzip.compress(row.content), *row[3:])
    for row in (
        OBJ[0],
        OFF[0],
        Row("ply", "binary", ply(FORMS[1], vertices(), faces(TRIANGLES))),
        STL[0],
        STL[4],
        Row("glb", "", square_gltf().glb()),
        Row("gltf", "", square_gltf().gltf()),
    )
]
