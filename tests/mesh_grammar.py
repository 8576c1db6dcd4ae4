"""What mesh files may hold, as a table: format, feature, content, and the right geometry.

Unless a row says otherwise, its file holds one square of two triangles.
"""

import base64
import gzip
import json
import struct
from typing import NamedTuple

import numpy as np

SQUARE = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
FACES = [[0, 1, 2], [0, 2, 3]]
RED = [[1.0, 0.2, 0.0]] * 4
ARROW = [[0, 0, 0], [2, 1, 0], [0, 2, 0], [1, 1, 0]]  # a concave corner, the last
ARROW_FACES = [[0, 1, 3], [1, 2, 3]]


class Row(NamedTuple):
    ending: str
    feature: str
    content: bytes
    pos: list = SQUARE
    face: list = FACES
    color: list | None = None


def numbers(rows, tail=""):
    return "".join(" ".join(map(str, row)) + f"{tail}\n" for row in rows)


def text(ending, feature, content, *right):
    return Row(ending, feature, content if isinstance(content, bytes) else content.encode(), *right)


# --- OBJ ------------------------------------------------------------------------------------------
V = "".join(f"v {x} {y} {z}\n" for x, y, z in SQUARE)
VA = "".join(f"v {x} {y} {z}\n" for x, y, z in ARROW)
F = "f 1 2 3\nf 1 3 4\n"
OBJ = [
    text("obj", "triangles", V + F),
    text("obj", "quads", V + "f 1 2 3 4\n"),
    text("obj", "a concave quad", VA + "f 1 2 3 4\n", ARROW, ARROW_FACES),
    text("obj", "texture corners v/vt", V + "vt 0 0\nvt 1 1\nf 1/1 2/2 3/1\nf 1/2 3/1 4/2\n"),
    text("obj", "normal corners v//vn", V + "vn 0 0 1\nf 1//1 2//1 3//1\nf 1//1 3//1 4//1\n"),
    text("obj", "corners v/vt/vn", V + "vt 0 0\nvn 0 0 1\nf 1/1/1 2/1/1 3/1/1 4/1/1\n"),
    text("obj", "corner forms mixed", V + "vt 0 0\nvn 0 0 1\nf 1/1 2/1 3/1\nf 1//1 3//1 4//1\n"),
    text("obj", "negative numbers", V + "f -4 -3 -2 -1\n"),
    text(
        "obj",
        "negative numbers with v/vt/vn",
        V + "vt 0 0\nvn 0 0 1\nf -4/-1/-1 -3/-1/-1 -2/-1/-1 -1/-1/-1\n",
    ),
    text(
        "obj",
        "faces before later vertices",
        "v 0 0 0\nv 1 0 0\nv 1 1 0\nf -3 -2 -1\nv 0 1 0\nf 1 3 -1\n",
    ),
    text("obj", "byte order mark", b"\xef\xbb\xbf" + (V + F).encode()),
    text("obj", "UTF-16", (V + F).encode("utf-16")),
    text("obj", "CRLF", (V + F).replace("\n", "\r\n")),
    text("obj", "CR", (V + F).replace("\n", "\r")),
    text("obj", "tabs and spaces around", (V + F).replace(" ", "\t ").replace("\n", " \t\n \t")),
    text("obj", "no line end at the end", (V + F).rstrip()),
    text("obj", "continuation lines", V + "f 1 2 \\\n 3 \\\r\n4\n"),
    text("obj", "continuation at the end", V + "f 1 2 3 4 \\"),
    text("obj", "comments", "# C:\\path\\\n" + V + "f 1 2 3 # 4 5\n#f 1 2 4\nf 1 3 4#\n"),
    text(
        "obj",
        "objects, groups and materials",
        "mtllib a.mtl\no A\ng a b\ns 1\n" + V + "usemtl m\nf 1 2 3\no B\nusemtl n\nf 1 3 4\n",
    ),
    text("obj", "vertices of several objects", "o A\n" + V[:16] + "o B\n" + V[16:] + F),
    text("obj", "names that are no UTF-8", b"o caf\xe9\n" + (V + F).encode()),
    text("obj", "weights", V.replace("\n", " 1.0\n") + F),
    text("obj", "scientific numbers", V.replace(" 1", " 1e+0").replace(" 0", " -0.0E-5") + F),
    text("obj", "colours from 0 to 1", V.replace("\n", " 1 0.2 0\n") + F, SQUARE, FACES, RED),
    text("obj", "colours from 0 to 255", V.replace("\n", " 255 51 0\n") + F, SQUARE, FACES, RED),
    text(
        "obj",
        "colours from 0 to 255 as floats",
        V.replace("\n", " 255.0 51.0 0.0\n") + F,
        SQUARE,
        FACES,
        RED,
    ),
    text(
        "obj",
        "dark colours from 0 to 255 as floats",
        V.replace("\n", " 25.5 5.1 0.0\n") + F,
        SQUARE,
        FACES,
        [[0.1, 0.02, 0]] * 4,
    ),
    text("obj", "colours with alpha", V.replace("\n", " 1 0.2 0 1\n") + F, SQUARE, FACES, RED),
    text(
        "obj",
        "colours on some vertices",
        "v 0 0 0 1 0 0\n" + V[8:] + F,
        SQUARE,
        FACES,
        [[1.0, 0, 0]] + [[1.0, 1, 1]] * 3,
    ),
    text("obj", "the obsolete word fo", V + "fo 1 2 3 4\n"),
]

# --- OFF ------------------------------------------------------------------------------------------
P, T = numbers(SQUARE), "3 0 1 2\n3 0 2 3\n"
OFF = [
    text("off", "triangles", f"OFF\n4 2 0\n{P}{T}"),
    text("off", "counts on the first line", f"OFF 4 2 0\n{P}{T}"),
    text(
        "off",
        "counts glued to OFF (PyMesh #162, trimesh #753, blender-off #19)",
        f"OFF4 2 0\n{P}{T}",
    ),
    text("off", "no number of edges", f"OFF\n4 2\n{P}{T}"),
    text("off", "no keyword", f"4 2 0\n{P}{T}"),
    text("off", "comments and empty lines", f"# a\nOFF # b\n\n# c\n4 2 0 # d\n\n{P}# e\n{T}"),
    text("off", "byte order mark", b"\xef\xbb\xbf" + f"OFF\n4 2 0\n{P}{T}".encode()),
    text("off", "CRLF", f"OFF\n4 2 0\n{P}{T}".replace("\n", "\r\n")),
    text("off", "a quad", f"OFF\n4 1 0\n{P}4 0 1 2 3\n"),
    text("off", "a concave quad", f"OFF\n4 1 0\n{numbers(ARROW)}4 0 1 2 3\n", ARROW, ARROW_FACES),
    text("off", "coloured faces", f"OFF\n4 2 0\n{P}3 0 1 2 255 0 0\n3 0 2 3 0.1 0.2 0.3 1\n"),
    text("off", "coloured quad by index", f"OFF\n4 1 0\n{P}4 0 1 2 3 7\n"),
    text("off", "two vertices a line", "OFF\n4 2 0\n0 0 0 1 0 0\n1 1 0 0 1 0\n" + T),
    text("off", "two faces a line", f"OFF\n4 2 0\n{P}3 0 1 2 3 0 2 3\n"),
    text("off", "all on one line", f"OFF 4 2 0 {P} {T}".replace("\n", " ")),
    text(
        "off",
        "a number a line",
        f"OFF\n4 2 0\n{P}{T}".replace(" ", "\n").replace("4\n2\n0", "4 2 0"),
    ),
    text(
        "off",
        "COFF with bytes",
        f"COFF\n4 2 0\n{numbers(SQUARE, ' 255 51 0 255')}{T}",
        SQUARE,
        FACES,
        RED,
    ),
    text(
        "off",
        "COFF with dark bytes",
        f"COFF\n4 2 0\n{numbers(SQUARE, ' 1 0 0 255')}{T}",
        SQUARE,
        FACES,
        [[1 / 255, 0, 0]] * 4,
    ),
    text(
        "off",
        "COFF with fractions",
        f"COFF\n4 2 0\n{numbers(SQUARE, ' 1 0.2 0 1')}{T}",
        SQUARE,
        FACES,
        RED,
    ),
    text(
        "off",
        "COFF without alpha",
        f"COFF\n4 2 0\n{numbers(SQUARE, ' 255 51 0')}{T}",
        SQUARE,
        FACES,
        RED,
    ),
    text("off", "NOFF", f"NOFF\n4 2 0\n{numbers(SQUARE, ' 0 0 1')}{T}"),
    text(
        "off",
        "NOFF, two vertices a line",
        "NOFF\n4 2 0\n"
        + numbers(SQUARE, " 0 0 1").replace("1\n1", "1 1").replace("1\n0", "1 0", 1)
        + T,
    ),
    text(
        "off",
        "CNOFF",
        f"CNOFF\n4 2 0\n{numbers(SQUARE, ' 0 0 1 255 51 0 255')}{T}",
        SQUARE,
        FACES,
        RED,
    ),
    text("off", "STOFF", f"STOFF\n4 2 0\n{numbers(SQUARE, ' 0.5 0.5')}{T}"),
    text(
        "off",
        "STCNOFF",
        f"STCNOFF\n4 2 0\n{numbers(SQUARE, ' 0 0 1 1 0.2 0 1 0.5 0.5')}{T}",
        SQUARE,
        FACES,
        RED,
    ),
]

# --- PLY ------------------------------------------------------------------------------------------
TYPES = {
    "char": "b", "uchar": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I", "float": "f",
    "double": "d", "int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i",
    "uint32": "I", "float32": "f", "float64": "d", "int64": "q", "uint64": "Q",
}  # fmt: skip
XYZ = ["float x", "float y", "float z"]
LIST = ["list uchar int vertex_indices"]
TRIANGLES = [[[0, 1, 2]], [[0, 2, 3]]]


def ply(form, *elements, comments="", end="\n", tail=b""):
    """A PLY file of elements: a name, properties, and rows whose lists are lists."""
    head = f"ply\nformat {form} 1.0\n{comments}"
    body = b""
    order = {"binary_little_endian": "<", "binary_big_endian": ">"}.get(form)
    for name, properties, rows in elements:
        head += f"element {name} {len(rows)}\n" + "".join(f"property {p}\n" for p in properties)
        for row in rows:
            words = []
            for p, value in zip(properties, row, strict=True):
                kinds = p.split()
                if kinds[0] == "list":
                    words += [(kinds[1], len(value)), *((kinds[2], v) for v in value)]
                else:
                    words.append((kinds[0], value))
            if order:
                body += b"".join(struct.pack(order + TYPES[k], v) for k, v in words)
            else:
                body += " ".join(str(v) for _, v in words).encode() + end.encode()
    return (head + "end_header\n").replace("\n", end).encode() + body + tail


def vertices(properties=(), values=(), pos=SQUARE):
    return "vertex", [*XYZ, *properties], [[*p, *values] for p in pos]


def faces(rows, properties=LIST):
    return "face", properties, rows


RGB = [f"{{}} {c}" for c in ("red", "green", "blue")]
DIFFUSE = [f"uchar diffuse_{c}" for c in ("red", "green", "blue")]
FORMS = ("ascii", "binary_little_endian", "binary_big_endian")


def ply_rows():
    def rgb(kind):
        return [p.format(kind) for p in RGB]

    square, two = vertices(), faces(TRIANGLES)
    for form in FORMS:

        def row(feature, *elements, right=(), form=form, **options):
            return Row("ply", f"{form}: {feature}", ply(form, *elements, **options), *right)

        yield row("triangles", square, two)
        yield row("a quad", square, faces([[[0, 1, 2, 3]]]))
        yield row(
            "a concave quad",
            vertices(pos=ARROW),
            faces([[[0, 1, 2, 3]]]),
            right=(ARROW, ARROW_FACES),
        )
        yield row(
            "triangles and quads (trimesh #1911, #2147)",
            vertices(pos=[*SQUARE, [2, 2, 2]]),
            faces([[[0, 1, 2, 3]], [[2, 3, 4]]]),
            right=([*SQUARE, [2, 2, 2]], [*FACES, [2, 3, 4]]),
        )
        yield row("faces of two corners", square, faces([[[0, 1]], [[0, 1, 2, 3]], [[]]]))
        yield row(
            "strips (assimp #6296, miniply #1, lod-mesh #3)",
            square,
            ("tristrips", ["list int int vertex_indices"], [[[1, 2, 0, 3]]]),
            right=(SQUARE, FACES),
        )
        yield row(
            "strips that restart",
            vertices(pos=[*SQUARE, [2, 2, 2]]),
            (
                "tristrips",
                ["list int int vertex_indices"],
                [[[0, 1, 2, -1, 1, 2, 4, -1]], [[0, 2, 3]]],
            ),
            right=([*SQUARE, [2, 2, 2]], [[0, 1, 2], [1, 2, 4], [0, 2, 3]]),
        )
        yield row("faces before vertices", two, square)
        yield row(
            "comments that name elements",
            square,
            two,
            comments="comment element vertex 9\nobj_info element face 8\ncomment\n",
        )
        yield row(
            "the name vertex_index", square, faces(TRIANGLES, ["list uint8 uint32 vertex_index"])
        )
        yield row(
            "lists of uint and short", square, faces(TRIANGLES, ["list uint short vertex_indices"])
        )
        yield row(
            "double, after other properties",
            (
                "vertex",
                ["uchar flag", "double x", "double y", "double z", "float s"],
                [[1, *p, 0.5] for p in SQUARE],
            ),
            two,
        )
        yield row("integer coordinates", ("vertex", ["int x", "short y", "char z"], SQUARE), two)
        yield row(
            "more lists and properties of faces",
            square,
            faces(
                [[7, [0, 1, 2], [0.5] * 6, 1], [7, [0, 2, 3], [], 2]],
                ["uchar a", *LIST, "list uchar float texcoord", "int b"],
            ),
        )
        yield row(
            "lists of vertices",
            (
                "vertex",
                [*XYZ, "list uchar int near"],
                [[*p, [0] * k] for k, p in enumerate(SQUARE)],
            ),
            two,
        )
        yield row(
            "other elements",
            square,
            ("camera", ["float a", "list uchar int b"], [[0.5, [1, 2]], [0.5, []]]),
            two,
            ("edge", ["int a", "int b"], [[0, 1]]),
        )
        yield row("an element without rows", ("material", ["int a"], []), square, two)
        yield row(
            "colours of bytes",
            vertices(rgb("uchar"), (255, 51, 0)),
            two,
            right=(SQUARE, FACES, RED),
        )
        yield row(
            "dark colours of bytes",
            vertices(rgb("uchar"), (1, 0, 0)),
            two,
            right=(SQUARE, FACES, [[1 / 255, 0, 0]] * 4),
        )
        yield row(
            "colours and alpha",
            vertices([*rgb("uint8"), "uint8 alpha"], (255, 51, 0, 255)),
            two,
            right=(SQUARE, FACES, RED),
        )
        yield row(
            "colours of 16 bits",
            vertices(rgb("ushort"), (65535, 13107, 0)),
            two,
            right=(SQUARE, FACES, RED),
        )
        yield row(
            "colours from 0 to 1",
            vertices(rgb("float"), (1, 0.2, 0)),
            two,
            right=(SQUARE, FACES, RED),
        )
        yield row(
            "colours from 0 to 255 as floats",
            vertices(rgb("double"), (255, 51, 0)),
            two,
            right=(SQUARE, FACES, RED),
        )
        yield row(
            "colours named diffuse_red",
            vertices(DIFFUSE, (255, 51, 0)),
            two,
            right=(SQUARE, FACES, RED),
        )
        yield row(
            "trailing bytes", square, two, tail=b"\0\0\0" if form != "ascii" else b"some words\n"
        )
        yield row("CRLF", square, two, end="\r\n")
        yield row("CR", square, two, end="\r")
    yield Row(
        "ply",
        "ascii: whole numbers written as floats",
        ply("ascii", square, two).replace(b"3 0 1 2", b"3.0 0.0 1.0 2.0"),
    )
    yield Row(
        "ply", "ascii: empty lines", ply("ascii", square, two).replace(b"1 1 0\n", b"1 1 0\n\n")
    )


# --- STL ------------------------------------------------------------------------------------------
CORNERS = [SQUARE[v] for face in FACES for v in face]
SOUP = (CORNERS, [[0, 1, 2], [3, 4, 5]])


def stl(count=2, head=b"", tail=b""):
    facets = np.zeros(2, np.dtype([("n", "<f4", 3), ("v", "<f4", (3, 3)), ("a", "<u2")]))
    facets["v"] = np.array(CORNERS).reshape(2, 3, 3)
    return head.ljust(80, b" ") + struct.pack("<I", count) + facets.tobytes() + tail


def facet(corners):
    loop = "".join(f"      vertex {x} {y} {z}\n" for x, y, z in corners)
    return f"  facet normal 0 0 1\n    outer loop\n{loop}    endloop\n  endfacet\n"


ASCII_STL = "solid a vertex\n" + facet(CORNERS[:3]) + facet(CORNERS[3:]) + "endsolid a vertex\n"
STL = [
    text("stl", "binary", stl(), *SOUP),
    text("stl", "binary that starts with solid", stl(head=b"solid by a modeller"), *SOUP),
    text("stl", "binary with bytes behind", stl(tail=b"more"), *SOUP),
    text(
        "stl",
        "binary that starts with solid, with bytes behind",
        stl(head=b"solid a", tail=b"\0" * 9),
        *SOUP,
    ),
    text("stl", "text", ASCII_STL, *SOUP),
    text("stl", "text in capitals", ASCII_STL.upper(), *SOUP),
    text(
        "stl", "text with CRLF and tabs", ASCII_STL.replace("\n", "\r\n").replace("  ", "\t"), *SOUP
    ),
    text(
        "stl",
        "text of several solids",
        "solid\n"
        + facet(CORNERS[:3])
        + "endsolid\nsolid b\n"
        + facet(CORNERS[3:])
        + "endsolid b\n",
        *SOUP,
    ),
    text("stl", "text after a byte order mark", b"\xef\xbb\xbf" + ASCII_STL.encode(), *SOUP),
]

# --- glTF -----------------------------------------------------------------------------------------
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
    yield row(
        "two materials on one set of vertices",
        g.mesh(primitive(g, shared, (0, 1, 2)), primitive(g, shared, (0, 2, 3))),
    )
    g = Gltf()
    yield row(
        "two primitives",
        g.mesh(
            primitive(g, SQUARE[:3], (0, 1, 2)), primitive(g, [*SQUARE[2:], [2, 2, 2]], (0, 1, 2))
        ),
        [*SQUARE[:3], *SQUARE[2:], [2, 2, 2]],
        [[0, 1, 2], [3, 4, 5]],
    )
    g = Gltf()
    yield row(
        "lines and points beside faces",
        g.mesh(primitive(g, index=(0, 1), mode=1), primitive(g), primitive(g, index=None, mode=0)),
    )
    # KHR_mesh_quantization: three.js #12551, assimp #6765
    required = {
        "extensionsUsed": ["KHR_mesh_quantization"],
        "extensionsRequired": ["KHR_mesh_quantization"],
    }
    for kind, top in (("<u2", 65535), ("<i2", 32767), ("<u1", 255), ("<i1", 127)):
        g = Gltf()
        at = g.array(np.array(SQUARE) * top, kind, normalized=True)
        yield row(
            f"normalised {kind} (three.js #12551, assimp #6765)",
            g.mesh(primitive(g, at)).finish(**required, nodes=[{"mesh": 0, "scale": [2, 2, 2]}]),
            (2 * np.array(SQUARE)).tolist(),
        )
        at = (g := Gltf()).array(np.array(SQUARE) * 3, kind)
        yield row(
            f"whole {kind}",
            g.mesh(primitive(g, at)).finish(**required),
            (3 * np.array(SQUARE)).tolist(),
        )
    g = Gltf()
    at = g.array(np.array(SQUARE) * -127 - np.array([1, 0, 0]), "<i1", normalized=True)
    yield row(
        "the lowest normalised byte is -1",
        g.mesh(primitive(g, at)).finish(**required),
        [[-1 / 127, 0, 0], [-1, 0, 0], [-1, -1, 0], [-1 / 127, -1, 0]],
    )
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
    yield row(
        "sparse values over zeros",
        g.mesh(primitive(g, g.accessor(np.zeros((4, 3), "<f4"), sparse=sparse))),
    )
    for kind, values, more in (
        ("<f4", [1, 0.2, 0], {}),
        ("<u1", [255, 51, 0, 255], {"normalized": True}),
        ("<u2", [65535, 13107, 0, 65535], {"normalized": True}),
    ):
        g = Gltf()
        yield row(
            f"colours of {kind}",
            g.mesh(primitive(g, COLOR_0=g.array([values] * 4, kind, **more))),
            SQUARE,
            FACES,
            RED,
        )
    # Nodes
    moved = [[x + 5, y, z] for x, y, z in SQUARE]
    yield row(
        "a translation", square_gltf().finish(nodes=[{"mesh": 0, "translation": [5, 0, 0]}]), moved
    )
    yield row(
        "a matrix",
        square_gltf().finish(
            nodes=[{"mesh": 0, "matrix": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 5, 0, 0, 1]}]
        ),
        moved,
    )
    half = 0.5**0.5
    yield row(
        "a rotation, then a translation",
        square_gltf().finish(
            nodes=[{"mesh": 0, "rotation": [0, 0, half, half], "translation": [5, 0, 0]}]
        ),
        [[5 - y, x, z] for x, y, z in SQUARE],
    )
    yield row(
        "a scale below a translation",
        square_gltf().finish(
            nodes=[{"children": [1], "translation": [5, 0, 0]}, {"mesh": 0, "scale": [2, 3, 4]}],
            scenes=[{"nodes": [0]}],
            scene=0,
        ),
        [[5 + 2 * x, 3 * y, 4 * z] for x, y, z in SQUARE],
    )
    yield row(
        "a mirror turns faces",
        square_gltf().finish(nodes=[{"mesh": 0, "scale": [-1, 1, 1]}]),
        [[-x, y, z] for x, y, z in SQUARE],
        [f[::-1] for f in FACES],
    )
    yield row(
        "a mesh twice",
        square_gltf().finish(nodes=[{"mesh": 0}, {"mesh": 0, "translation": [5, 0, 0]}]),
        SQUARE + moved,
        FACES + [[4 + v for v in f] for f in FACES],
    )
    yield row(
        "the default scene alone",
        square_gltf().finish(
            nodes=[{"mesh": 0}, {"mesh": 0, "translation": [5, 0, 0]}],
            scenes=[{"nodes": [1]}, {"nodes": [0]}],
            scene=1,
        ),
    )
    g = square_gltf()
    target = g.array([[0, 0, 1]] * 4)
    g.tree["meshes"][0] |= {"weights": [0.5]}
    g.tree["meshes"][0]["primitives"][0]["targets"] = [{"POSITION": target}]
    yield row("a shape key", g, [[x, y, 0.5] for x, y, z in SQUARE])
    yield row(
        "compression that is not required",
        square_gltf().finish(extensionsUsed=["KHR_draco_mesh_compression"]),
    )
    yield Row("gltf", "data in the file", square_gltf().gltf())
    yield Row(
        "gltf", "data in the file, after a byte order mark", b"\xef\xbb\xbf" + square_gltf().gltf()
    )
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
