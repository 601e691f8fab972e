"""The table of the file that holds prepared backbones."""

from data.schema import Array, Attribute, FileKind

PROTEIN_BACKBONES = FileKind(
    name="protein.backbones",
    version=1,
    meaning="Backbones of single protein chains, what the protein flow learns from.",
    arrays={
        "atoms": Array("residue* atom=4 xyz=3", "float32", "Å", "N, CA, C, O as in the source; zero where absent"),
        "present": Array("residue* atom=4", "bool", "1", "which of the atoms are there"),
        "residue_index": Array("residue*", "int32", "1", "from 1, increasing; a gap in it is a gap in the chain"),
        "residue_type": Array("residue*", "uint8", "1", "position in data.batch.RESIDUE_TYPES; 20 where unknown"),
        "secondary": Array("residue*", "uint8", "1", "secondary structure: 0 coil, 1 helix, 2 strand"),
        "numbers": Array("", "str", "1", "the author's residue numbers with insertion code, joined by spaces"),
        "source": Array("", "str", "1", "name of the file and chain, or how it was generated"),
        "group": Array("", "str", "1", "cluster of similar sequences: the id of one of its chains"),
        "resolution": Array("", "float64", "Å", "NaN where not known"),
    },
    attributes={
        "key": Attribute("str", "hash of the configuration and of all inputs' content"),
        "config": Attribute("str", "the configuration of the preparation, JSON"),
    },
)
