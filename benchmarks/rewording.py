"""Other words for the same: a table for Korean legal and encyclopaedic prose, and numerals written otherwise."""

import random
import re

# "old new" pairs between bars and line ends, _ for a space. Both directions stand where both are natural. Words of one syllable match alone only.
_TABLE = """
위반 위배|위배 위반|경우 때|의하여 따라|의한 따른|의하면 따르면|대하여 관하여|대한 관한|관하여 대하여|관한 대한|위하여 위해서
위한 위하는|인하여 말미암아|인한 말미암은|따라서 그러므로|그러므로 따라서|그러나 하지만|하지만 그러나|또한 아울러|다만 단|또는 혹은
혹은 또는|즉 곧|특히 무엇보다|만약 만일|만일 만약|비록 설령|당해 해당|이러한 이와_같은|그러한 그와_같은|소정의 정하는
하더라도 할지라도|하여도 할지라도|있더라도 있을지라도|없더라도 없을지라도|되더라도 될지라도|상당하다 타당하다|타당하다 상당하다
부당한 온당하지_않은|적법한 합법적인|위법한 불법적인|의무 책무|책임 책무|손해 손실|이익 이득|취득 획득|토지 땅|건물 건축물
행위 행동|이유 까닭|사유 이유|판단하 판정하|판단할 판정할|인정되 수긍되|인정할 수긍할|인정하 수긍하|구하는 청구하는|구할 청구할
발생한 생긴|동일한 똑같은|모두 전부|전부 모두|반드시 꼭|직접 바로|이미 벌써|다시 재차|당연히 마땅히|필요한 요구되는|새로운 새
어느 어떤|아무런 어떠한|타인 다른_사람|자신 본인|법원 재판부|회사 기업|계약 약정|약정 계약|금액 액수|기준 척도|범위 한도
방법 방식|절차 과정|원칙 원리|이른바 소위|소위 이른바|불구하고 상관없이|비추어 견주어|의미한다 뜻한다|의미 뜻|말한다 가리킨다
말하는 가리키는|포함 내포|변경 수정|명백 분명|분명 명백|일정한 특정한|특별한 별다른|상태 상황|상황 상태|정도 수준|관계 관련
사실상 실제로|지급 지불|반환 환급|종료 종결|목적 취지|내용 사항|효력 효과|효과 효력|권리 권한|법률 법|규정에 조항에|규정은 조항은
규정을 조항을|규정이 조항이|규정의 조항의|규정하 명시하|규정한 명시한|규정된 명시된|해당하 속하|해당한 속한|해당할 속할|해당된 속한
볼_수 여길_수|보아야 여겨야|볼_것 여길_것|한다고_할 한다고_말할|이라고_할 이라고_말할|있지 존재하지|없는_한 없으면|아니라 아니고
뿐만 뿐|사이에 간에|상대로 대상으로|이루어진 행해진|이루어지 행해지|가지고 지니고|가지는 지니는|가진 지닌|성립한 이루어진|기재 기입
신고 보고|통지 통보|제출 제시|증거 근거_자료|확정된 정해진|확정 결정|취소 철회|해제 파기|청구 요구|설정 설치|사용 이용|이용 사용
처분 조치|허용 용인|금지 불허|참작 고려|고려 참작|충분 넉넉|대부분 거의_다|각각 저마다|서로 상호|상호 서로|위치하 자리하
위치한 자리한|가장 제일|많은 수많은|유명 저명|시작 개시|사람 인물|국가 나라|나라 국가|최초 처음|처음 최초|약 대략|주로 대개
현재 지금|매우 아주|등 따위|함께 같이|사망 작고|발표 공표|설립 창설|건설 건축|개발 고안|이름 명칭|명칭 이름|별명 이명|기간 동안
지역 지방|역할 구실|작품 저작|전쟁 싸움|영향 작용|특징 특색|종류 갈래|여러 갖가지|다양한 갖가지|크게 몹시|점차 차츰|결국 마침내
또 더욱이|그래서 그리하여|존재하는 있는|존재하지 있지|성립하는 이루어지는|성립하지 이루어지지|부담하는 지는|발생하는 생기는
발생하지 생기지|해당되는 속하는|해당되지 속하지|제기하는 내는
"""
_PAIRS = [pair.split(" ") for pair in re.split(r"[|\n]", _TABLE.strip())]
_SYNONYMS = {old.replace("_", " "): new.replace("_", " ") for old, new in _PAIRS}
_WORD = re.compile(
    r"(?<![가-힣])("
    + "|".join(f"{old}(?![가-힣])" if len(old) == 1 else old for old in sorted(_SYNONYMS, key=len, reverse=True))
    + r")((?:은|는|이|가|을|를|과|와|으로|로)(?![가-힣]))?"
)
# Particle after a consonant, after a vowel.
_PARTICLES = [("은", "는"), ("이", "가"), ("을", "를"), ("과", "와"), ("으로", "로")]
_DATE = re.compile(r"(?<!\d)(\d{4})\. ?(\d{1,2})\. ?(\d{1,2})\.")
_COUNT = re.compile(r"(?<![\d.,제])([1-9]|[1-9]\d)(년|개월|월|일|인|회|층|세기)(?!\d)")
_DIGITS = " 일이삼사오육칠팔구"


def reword(text: str, generator: random.Random, *, share: float = 0.9) -> str:
    """Put other words of the same meaning in the place of those in the table, and numerals into words.

    Args:
        text: the passage.
        generator: decides which occurrences change.
        share: probability that an occurrence changes.
    """

    def change(match: re.Match) -> str:
        if generator.random() >= share:
            return match[0]
        new = _SYNONYMS[match[1]]
        return new + _particle(new, match[2] or "")

    text = _COUNT.sub(lambda match: _sino_korean(int(match[1])) + match[2], text)
    text = _DATE.sub(r"\1년 \2월 \3일", text)
    return _WORD.sub(change, text)


def _particle(word: str, particle: str) -> str:
    """The form of a particle that goes with a word's last syllable: 손해를, 손실을."""
    final = (ord(word[-1]) - 0xAC00) % 28  # 0: ends in a vowel
    for pair in _PARTICLES:
        if particle in pair:
            vowel = final == 0 or (pair[0] == "으로" and final == 8)  # ㄹ takes 로
            return pair[vowel]
    return particle


def _sino_korean(number: int) -> str:
    """1 to 99 in words: 15 -> 십오."""
    tens, ones = divmod(number, 10)
    return ((_DIGITS[tens] if tens > 1 else "") + "십" if tens else "") + (_DIGITS[ones] if ones else "")
