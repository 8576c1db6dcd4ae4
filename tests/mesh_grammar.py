"""What mesh files may hold, as a table: format, feature, content, and the right geometry.

Unless a row says otherwise, its file holds one square of two triangles.
"""

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
# fmt: off
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
    text("obj", "negative numbers with v/vt/vn", V
         + "vt 0 0\nvn 0 0 1\nf -4/-1/-1 -3/-1/-1 -2/-1/-1 -1/-1/-1\n"),
    text("obj", "faces before later vertices",
         "v 0 0 0\nv 1 0 0\nv 1 1 0\nf -3 -2 -1\nv 0 1 0\nf 1 3 -1\n"),
    text("obj", "byte order mark", b"\xef\xbb\xbf" + (V + F).encode()),
    text("obj", "UTF-16", (V + F).encode("utf-16")),
    text("obj", "CRLF", (V + F).replace("\n", "\r\n")),
    text("obj", "CR", (V + F).replace("\n", "\r")),
    text("obj", "tabs and spaces around", (V + F).replace(" ", "\t ").replace("\n", " \t\n \t")),
    text("obj", "no line end at the end", (V + F).rstrip()),
    text("obj", "continuation lines", V + "f 1 2 \\\n 3 \\\r\n4\n"),
    text("obj", "continuation at the end", V + "f 1 2 3 4 \\"),
    text("obj", "comments", "# C:\\path\\\n" + V + "f 1 2 3 # 4 5\n#f 1 2 4\nf 1 3 4#\n"),
    text("obj", "objects, groups and materials", "mtllib a.mtl\no A\ng a b\ns 1\n" + V
         + "usemtl m\nf 1 2 3\no B\nusemtl n\nf 1 3 4\n"),
    text("obj", "vertices of several objects", "o A\n" + V[:16] + "o B\n" + V[16:] + F),
    text("obj", "names that are no UTF-8", b"o caf\xe9\n" + (V + F).encode()),
    text("obj", "weights", V.replace("\n", " 1.0\n") + F),
    text("obj", "scientific numbers", V.replace(" 1", " 1e+0").replace(" 0", " -0.0E-5") + F),
    text("obj", "colours from 0 to 1", V.replace("\n", " 1 0.2 0\n") + F, SQUARE, FACES, RED),
    text("obj", "colours from 0 to 255", V.replace("\n", " 255 51 0\n") + F, SQUARE, FACES, RED),
    text("obj", "colours from 0 to 255 as floats", V.replace("\n", " 255.0 51.0 0.0\n") + F, SQUARE,
         FACES, RED),
    text("obj", "dark colours from 0 to 255 as floats", V.replace("\n", " 25.5 5.1 0.0\n") + F,
         SQUARE, FACES, [[0.1, 0.02, 0]] * 4),
    text("obj", "colours with alpha", V.replace("\n", " 1 0.2 0 1\n") + F, SQUARE, FACES, RED),
    text("obj", "colours on some vertices", "v 0 0 0 1 0 0\n" + V[8:] + F, SQUARE, FACES, [[1.0, 0,
         0]] + [[1.0, 1, 1]] * 3),
    text("obj", "the obsolete word fo", V + "fo 1 2 3 4\n"),
]

# --- OFF ------------------------------------------------------------------------------------------
P, T = numbers(SQUARE), "3 0 1 2\n3 0 2 3\n"
OFF = [
    text("off", "triangles", f"OFF\n4 2 0\n{P}{T}"),
    text("off", "counts on the first line", f"OFF 4 2 0\n{P}{T}"),
    text("off", "counts glued to OFF (PyMesh #162, trimesh #753, blender-off #19)",
         f"OFF4 2 0\n{P}{T}"),
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
    text("off", "a number a line", f"OFF\n4 2 0\n{P}{T}".replace(" ", "\n").replace("4\n2\n0",
         "4 2 0")),
    text("off", "COFF with bytes", f"COFF\n4 2 0\n{numbers(SQUARE, ' 255 51 0 255')}{T}", SQUARE,
         FACES, RED),
    text("off", "COFF with dark bytes", f"COFF\n4 2 0\n{numbers(SQUARE, ' 1 0 0 255')}{T}", SQUARE,
         FACES, [[1 / 255, 0, 0]] * 4),
    text("off", "COFF with fractions", f"COFF\n4 2 0\n{numbers(SQUARE, ' 1 0.2 0 1')}{T}", SQUARE,
         FACES, RED),
    text("off", "COFF without alpha", f"COFF\n4 2 0\n{numbers(SQUARE, ' 255 51 0')}{T}", SQUARE,
         FACES, RED),
    text("off", "NOFF", f"NOFF\n4 2 0\n{numbers(SQUARE, ' 0 0 1')}{T}"),
    text("off", "NOFF, two vertices a line", "NOFF\n4 2 0\n" + numbers(SQUARE,
         " 0 0 1").replace("1\n1", "1 1").replace("1\n0", "1 0", 1) + T),
    text("off", "CNOFF", f"CNOFF\n4 2 0\n{numbers(SQUARE, ' 0 0 1 255 51 0 255')}{T}", SQUARE,
         FACES, RED),
    text("off", "STOFF", f"STOFF\n4 2 0\n{numbers(SQUARE, ' 0.5 0.5')}{T}"),
    text("off", "STCNOFF", f"STCNOFF\n4 2 0\n{numbers(SQUARE, ' 0 0 1 1 0.2 0 1 0.5 0.5')}{T}",
         SQUARE, FACES, RED),
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
        yield row("a concave quad", vertices(pos=ARROW), faces([[[0, 1, 2, 3]]]), right=(ARROW,
             ARROW_FACES))
        yield row("triangles and quads (trimesh #1911, #2147)", vertices(pos=[*SQUARE, [2, 2, 2]]),
             faces([[[0, 1, 2, 3]], [[2, 3, 4]]]), right=([*SQUARE, [2, 2, 2]], [*FACES, [2, 3,
             4]]))
        yield row("faces of two corners", square, faces([[[0, 1]], [[0, 1, 2, 3]], [[]]]))
        yield row("strips (assimp #6296, miniply #1, lod-mesh #3)", square, ("tristrips",
             ["list int int vertex_indices"], [[[1, 2, 0, 3]]]), right=(SQUARE, FACES))
        yield row("strips that restart", vertices(pos=[*SQUARE, [2, 2, 2]]), ("tristrips",
             ["list int int vertex_indices"], [[[0, 1, 2, -1, 1, 2, 4, -1]], [[0, 2, 3]]]),
             right=([*SQUARE, [2, 2, 2]], [[0, 1, 2], [1, 2, 4], [0, 2, 3]]))
        yield row("faces before vertices", two, square)
        yield row("comments that name elements", square, two,
             comments="comment element vertex 9\nobj_info element face 8\ncomment\n")
        yield row("the name vertex_index", square, faces(TRIANGLES,
             ["list uint8 uint32 vertex_index"]))
        yield row("lists of uint and short", square, faces(TRIANGLES,
             ["list uint short vertex_indices"]))
        yield row("double, after other properties", ("vertex", ["uchar flag", "double x",
             "double y", "double z", "float s"], [[1, *p, 0.5] for p in SQUARE]), two)
        yield row("integer coordinates", ("vertex", ["int x", "short y", "char z"], SQUARE), two)
        yield row("more lists and properties of faces", square, faces([[7, [0, 1, 2], [0.5] * 6, 1],
             [7, [0, 2, 3], [], 2]], ["uchar a", *LIST, "list uchar float texcoord", "int b"]))
        yield row("lists of vertices", ("vertex", [*XYZ, "list uchar int near"], [[*p,
             [0] * k] for k, p in enumerate(SQUARE)]), two)
        yield row("other elements", square, ("camera", ["float a", "list uchar int b"], [[0.5, [1,
             2]], [0.5, []]]), two, ("edge", ["int a", "int b"], [[0, 1]]))
        yield row("an element without rows", ("material", ["int a"], []), square, two)
        yield row("colours of bytes", vertices(rgb("uchar"), (255, 51, 0)), two, right=(SQUARE,
             FACES, RED))
        yield row("dark colours of bytes", vertices(rgb("uchar"), (1, 0, 0)), two, right=(SQUARE,
             FACES, [[1 / 255, 0, 0]] * 4))
        yield row("colours and alpha", vertices([*rgb("uint8"), "uint8 alpha"], (255, 51, 0, 255)),
             two, right=(SQUARE, FACES, RED))
        yield row("colours of 16 bits", vertices(rgb("ushort"), (65535, 13107, 0)), two,
             right=(SQUARE, FACES, RED))
        yield row("colours from 0 to 1", vertices(rgb("float"), (1, 0.2, 0)), two, right=(SQUARE,
             FACES, RED))
        yield row("colours from 0 to 255 as floats", vertices(rgb("double"), (255, 51, 0)), two,
             right=(SQUARE, FACES, RED))
        yield row("colours named diffuse_red", vertices(DIFFUSE, (255, 51, 0)), two, right=(SQUARE,
             FACES, RED))
        yield row("trailing bytes", square, two,
             tail=b"\0\0\0" if form != "ascii" else b"some words\n")
        yield row("CRLF", square, two, end="\r\n")
        yield row("CR", square, two, end="\r")
    yield Row("ply", "ascii: whole numbers written as floats", ply("ascii", square,
         two).replace(b"3 0 1 2", b"3.0 0.0 1.0 2.0"))
    yield Row("ply", "ascii: empty lines", ply("ascii", square, two).replace(b"1 1 0\n",
         b"1 1 0\n\n"))


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
    text("stl", "binary that starts with solid, with bytes behind", stl(head=b"solid a",
         tail=b"\0" * 9), *SOUP),
    text("stl", "text", ASCII_STL, *SOUP),
    text("stl", "text in capitals", ASCII_STL.upper(), *SOUP),
    text("stl", "text with CRLF and tabs", ASCII_STL.replace("\n", "\r\n").replace("  ", "\t"),
         *SOUP),
    text("stl", "text of several solids", "solid\n" + facet(CORNERS[:3]) + "endsolid\nsolid b\n"
         + facet(CORNERS[3:]) + "endsolid b\n", *SOUP),
    text("stl", "text after a byte order mark", b"\xef\xbb\xbf" + ASCII_STL.encode(), *SOUP),
]
