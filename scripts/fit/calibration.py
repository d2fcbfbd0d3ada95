"""Reading the calibration corpora: texts whose licences allow redistributing what is fitted on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# ISO 639-3 codes and regional forms of languages that occur under two or more names in the corpora.
_ALIASES = """
    eng=en deu=de fra=fr jpn=ja ita=it dan=da kor=ko pt_BR=pt por=pt slk=sk cmn=zh zh_CN=zh zh_TW=zh
    zh_Hant=zh zh_Hant_HK=zh yue=zh wuu=zh cmn_hans=zh cmn_hant=zh ukr=uk pol=pl rus=ru ces=cs spa=es
    fin=fi nld=nl srp=sr swe=sv hun=hu cat=ca lit=lt lav=lv lvs=lv est=et slv=sl hrv=hr bos=bs bul=bg
    ron=ro ell=el tur=tr ara=ar heb=he hin=hi ben=bn tam=ta tel=te mal=ml kan=kn guj=gu mar=mr pan=pa
    urd=ur pes=fa fas=fa tha=th vie=vi ind=id zsm=ms nob=no nb=no nno=nn isl=is gle=ga cym=cy eus=eu
    baq=eu glg=gl afr=af swh=sw swa=sw sqi=sq mkd=mk bel=be kaz=kk uzb=uz aze=az hye=hy arm=hy kat=ka
    khm=km mon=mn zul=zu yor=yo ibo=ig hau=ha som=so amh=am mya=my lao=lo sin=si nep=ne
"""
ONE_NAME: dict[str, str] = dict(alias.split("=") for alias in _ALIASES.split())


@dataclass(frozen=True, slots=True)
class Text:
    source: str
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Pair:
    source: str
    query_language: str
    document_language: str
    query: str
    document: str


def one_name(code: str) -> str:
    return ONE_NAME.get(code, code)


def read_texts(folder: Path) -> Iterator[Text]:
    """The single texts of every corpus, in a fixed order."""
    for path in sorted(folder.glob("*.jsonl")):
        if path.stem == "pairs":
            continue
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                yield Text(path.stem, one_name(record["lang"]), record["text"])


def read_pairs(folder: Path) -> Iterator[Pair]:
    """The natural pairs (title and body, translations, docstring and code, sentence and paragraph)."""
    with (folder / "pairs.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            yield Pair(
                record["source"],
                one_name(record["lang_query"]),
                one_name(record["lang_document"]),
                record["query"],
                record["document"],
            )
