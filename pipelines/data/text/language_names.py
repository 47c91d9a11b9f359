"""Codes and English names of languages: those with a code of two letters that the identifier knows. Plain data."""

from __future__ import annotations

# ISO 639-1, ISO 639-3, name.
TABLE = (
    "af afr Afrikaans, am amh Amharic, ar ara Arabic, as asm Assamese, az aze Azerbaijani, "
    "ba bak Bashkir, be bel Belarusian, bg bul Bulgarian, bn ben Bengali, br bre Breton, bs bos Bosnian, "
    "ca cat Catalan, cs ces Czech, cy cym Welsh, da dan Danish, de deu German, dz dzo Dzongkha, el ell Greek, "
    "en eng English, eo epo Esperanto, es spa Spanish, et est Estonian, eu eus Basque, fa fas Persian, fi fin Finnish, "
    "fo fao Faroese, fr fra French, fy fry Frisian, ga gle Irish, gd gla Gaelic, gl glg Galician, gu guj Gujarati, "
    "ha hau Hausa, he heb Hebrew, hi hin Hindi, hr hrv Croatian, ht hat Haitian Creole, hu hun Hungarian, "
    "hy hye Armenian, id ind Indonesian, ig ibo Igbo, is isl Icelandic, it ita Italian, ja jpn Japanese, "
    "jv jav Javanese, ka kat Georgian, kk kaz Kazakh, km khm Khmer, kn kan Kannada, ko kor Korean, ku kur Kurdish, "
    "ky kir Kyrgyz, la lat Latin, lb ltz Luxembourgish, lg lug Ganda, ln lin Lingala, lo lao Lao, lt lit Lithuanian, "
    "lv lav Latvian, mg mlg Malagasy, mk mkd Macedonian, ml mal Malayalam, mn mon Mongolian, mr mar Marathi, "
    "ms msa Malay, mt mlt Maltese, my mya Burmese, ne nep Nepali, nl nld Dutch, nn nno Nynorsk, no nor Norwegian, "
    "oc oci Occitan, om orm Oromo, or ori Odia, pa pan Punjabi, pl pol Polish, ps pus Pashto, pt por Portuguese, "
    "qu que Quechua, ro ron Romanian, ru rus Russian, rw kin Kinyarwanda, sa san Sanskrit, se sme Sami, "
    "si sin Sinhala, sk slk Slovak, sl slv Slovenian, sn sna Shona, so som Somali, sq sqi Albanian, sr srp Serbian, "
    "st sot Sotho, sv swe Swedish, sw swa Swahili, ta tam Tamil, te tel Telugu, tg tgk Tajik, th tha Thai, "
    "tk tuk Turkmen, tl tgl Tagalog, tr tur Turkish, tt tat Tatar, ug uig Uyghur, uk ukr Ukrainian, ur urd Urdu, "
    "uz uzb Uzbek, vi vie Vietnamese, wa wln Walloon, xh xho Xhosa, yo yor Yoruba, zh zho Chinese, "
    "zu zul Zulu"
)

ROWS = [row.split(" ", 2) for row in TABLE.split(", ")]
LANGUAGE_NAMES = {code: name for code, _, name in ROWS}
# What a language column may hold, in lower case. cmn, yue and wuu are Chinese too; the others are second codes.
CODES = {value.lower(): row[0] for row in ROWS for value in row} | {
    "cmn": "zh", "yue": "zh", "wuu": "zh", "mandarin": "zh", "cantonese": "zh", "chi": "zh", "ger": "de", "fre": "fr",
    "per": "fa", "farsi": "fa", "pes": "fa", "arb": "ar", "nb": "no", "nob": "no", "iw": "he", "fil": "tl",
}  # fmt: skip
