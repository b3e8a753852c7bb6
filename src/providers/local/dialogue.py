"""What the agent says next: a state, what was heard, and from them the next state. Text alone, no sound, no clock."""

from __future__ import annotations

from dataclasses import dataclass, replace

from providers.local import answers, numbers
from providers.local.faq import Action, Faq, Intent
from providers.local.intents import IntentClassifier
from providers.local.message_form import EMPTY, Draft, Field, field_named
from providers.local.script import (
    AGAIN,
    ALL_RIGHT,
    BEFORE_YOU_GO,
    GAVE_UP,
    GO_AHEAD,
    NO_MESSAGES,
    NOT_HEARD,
    NOT_STORED,
    NOT_UNDERSTOOD,
    NOTHING_SAID,
    ONCE_MORE,
    ONE_MOMENT,
    QUESTIONS,
    START_AGAIN,
    STILL_NOT_UNDERSTOOD,
    STORED,
    THANK_YOU,
    Step,
    can_be_asked,
)

_FORM = frozenset({Step.NAME, Step.OWN_NUMBER, Step.NUMBER, Step.REASON, Step.CONFIRM, Step.WHICH_PART})
_STEP_OF = {Field.NAME: Step.NAME, Field.NUMBER: Step.NUMBER, Field.REASON: Step.REASON}

_MOST_MISSES = 3
_SHORT_WORDS = 3
"""Up to so many words may be a yes or a no that nobody asked for."""
_NAME_WORDS = 2
_COMMAND_WORDS = 4
"""A longer sentence is what the message is about, even if it speaks of cancelling."""
_SURE = 0.6
"""Confidence that an intent needs to interrupt a question of ours: the answer is what was expected."""


@dataclass(slots=True, frozen=True)
class State:
    step: Step = Step.OPEN
    draft: Draft = EMPTY
    misses: int = 0
    """Answers in a row that did not help."""
    said: str = ""
    """What the agent said last, for who did not hear it."""


@dataclass(slots=True, frozen=True)
class Turn:
    """What the agent does now."""

    state: State
    says: str
    stores: Draft | None = None
    hangs_up: bool = False


class Dialogue:
    """The rules. Has no state of its own: one instance serves a whole call, any turn can be taken again."""

    def __init__(
        self,
        faq: Faq,
        classifier: IntentClassifier,
        *,
        caller_number: str = "",
        takes_messages: bool = True,
    ) -> None:
        """``caller_number`` is what may be offered for calling back; ``takes_messages``: whether there is a tool."""
        self._faq = faq
        self._classifier = classifier
        self._own_number = numbers.callable_number(caller_number)
        self._takes_messages = takes_messages

    def hear(self, state: State, text: str) -> Turn:
        """The caller said ``text``; empty: something that had no words."""
        if state.step is Step.STORING:
            turn = self._while_storing(state)
        elif not answers.words(text):
            turn = self._missed(state, NOT_HEARD)
        else:
            turn = self._answered(state, text)
        return self._remembering(turn)

    def stored(self, state: State, succeeded: bool) -> Turn:
        """The tool has taken the message, or could not."""
        if succeeded:
            after = State(Step.ANYTHING_ELSE)
            return self._remembering(Turn(after, f"{STORED} {QUESTIONS[Step.ANYTHING_ELSE]}"))
        return self._remembering(Turn(State(), NOT_STORED))

    def reminded(self, state: State, text: str) -> Turn:
        """The caller answered a question that was not the dialogue's, such as "are you still there?"."""
        if answers.yes_or_no(text) is None or state.step is Step.STORING:
            return self.hear(state, text)
        return self._remembering(Turn(state, self._question(state)))

    def is_complete(self, state: State, text: str) -> bool:
        """Whether the caller is done: nothing that makes sense after a pause would change what ``text`` means."""
        if not answers.words(text):
            return True
        if answers.trails_off(text):
            return False
        answer = answers.yes_or_no(text)
        guess = self._classifier.guess(text)
        sure = guess.intent is not None and guess.confidence >= _SURE
        match state.step:
            case Step.NAME:
                return sure or len(answers.person_name(text).split()) >= 2
            case Step.NUMBER:
                return sure or len(state.draft.partial + numbers.figures(text)) >= 10
            case Step.REASON:
                return False
            case Step.CONFIRM:  # a "no" is often followed by what is wrong
                return answer is True or sure
            case Step.WHICH_PART:
                return sure or field_named(text) is not None
            case _:
                return answer is not None or guess.intent is not None

    # The steps

    def _answered(self, state: State, text: str) -> Turn:
        match state.step:
            case Step.NAME:
                return self._name(state, text)
            case Step.NUMBER:
                return self._number(state, text)
            case Step.REASON:
                return self._reason(state, text)
            case Step.CONFIRM:
                return self._confirmation(state, text)
            case Step.WHICH_PART:
                return self._which_part(state, text)
            case Step.OWN_NUMBER:
                return self._own_number_answer(state, text)
            case Step.OFFERED | Step.ANYTHING_ELSE:
                return self._offer_answer(state, text)
            case _:
                return self._open(state, text)

    def _open(self, state: State, text: str) -> Turn:
        intent = self._intent(text, 0.0 if len(answers.words(text)) > _SHORT_WORDS else _SURE)
        if intent is not None:
            return self._acted(state, intent)
        match answers.yes_or_no(text) if len(answers.words(text)) <= _SHORT_WORDS else None:
            case True:
                return Turn(State(), GO_AHEAD)
            case False:
                return Turn(State(Step.ANYTHING_ELSE), f"{ALL_RIGHT} {QUESTIONS[Step.ANYTHING_ELSE]}")
            case None:
                return self._interrupted(state, text)

    def _offer_answer(self, state: State, text: str) -> Turn:
        offered = state.step is Step.OFFERED
        answer = answers.yes_or_no(text)
        intent = self._intent(text, 0.0 if answer is None else _SURE)
        if intent is not None and not answers.is_plain_answer(text):
            if intent.action is not Action.CANCEL:
                return self._acted(state, intent)
            answer = False
        match answer:
            case None:
                return self._missed(state, NOT_UNDERSTOOD)
            case True:
                return self._asked(state, Step.NAME) if offered else Turn(State(), GO_AHEAD)
            case False if offered:
                return Turn(State(Step.ANYTHING_ELSE), f"{ALL_RIGHT} {QUESTIONS[Step.ANYTHING_ELSE]}")
            case False:
                return self._acted(state, self._faq.doing(Action.GOODBYE))

    def _name(self, state: State, text: str) -> Turn:
        intent = None if answers.introduces_name(text) else self._intent(text, _SURE)
        short = len(answers.words(text)) <= _NAME_WORDS
        if intent is not None and not (short and intent.action is Action.ANSWER):  # there are people named Price
            return self._acted(state, intent)
        name = answers.person_name(text)
        if not name:
            return self._missed(state, NOT_UNDERSTOOD)
        return self._next(state, replace(state.draft, name=name))

    def _own_number_answer(self, state: State, text: str) -> Turn:
        said = numbers.figures(text)
        if numbers.is_number(said):
            return self._next(state, replace(state.draft, number=said))
        answer = answers.yes_or_no(text)
        if answer is None:
            return self._interrupted(state, text)
        if answer:
            return self._next(state, replace(state.draft, number=self._own_number))
        return self._asked(state, Step.NUMBER)

    def _number(self, state: State, text: str) -> Turn:
        said = numbers.figures(text)
        if not said:
            if answers.yes_or_no(text) is False and state.draft.partial:
                draft = replace(state.draft, partial="")
                return Turn(State(Step.NUMBER, draft), START_AGAIN)
            return self._interrupted(state, text)
        whole = said if numbers.is_number(said) else state.draft.partial + said
        if numbers.is_number(whole):
            return self._next(state, replace(state.draft, number=whole, partial=""))
        if len(whole) > numbers.LONGEST_NUMBER:
            return self._missed(State(Step.NUMBER, replace(state.draft, partial=""), state.misses), "")
        draft = replace(state.draft, partial=whole)
        return Turn(State(Step.NUMBER, draft), f"I have {numbers.grouped(whole)}. What comes next?")

    def _reason(self, state: State, text: str) -> Turn:
        intent = self._intent(text, _SURE)
        short = len(answers.words(text)) <= _COMMAND_WORDS
        if short and intent is not None and intent.action in (Action.CANCEL, Action.REPEAT):
            return self._acted(state, intent)
        return self._next(state, replace(state.draft, reason=answers.reason(text)))

    def _confirmation(self, state: State, text: str) -> Turn:
        answer = answers.yes_or_no(text)
        intent = self._intent(text, _SURE)
        if intent is not None and intent.action is not Action.ANSWER and not answers.is_plain_answer(text):
            return self._acted(state, intent)
        said = numbers.figures(text)
        if answer is not True and numbers.is_number(said):
            return self._next(state, replace(state.draft, number=said))
        if answer is not True and answers.introduces_name(text) and answers.person_name(text):
            return self._next(state, replace(state.draft, name=answers.person_name(text)))
        if answer:
            if not self._takes_messages:
                return Turn(State(), NO_MESSAGES)
            return Turn(State(Step.STORING, state.draft), THANK_YOU, stores=state.draft)
        if answer is False:
            part = field_named(text)
            if part is not None:
                return self._asked(state, _STEP_OF[part])
            return self._asked(state, Step.WHICH_PART)
        return self._interrupted(state, text)

    def _which_part(self, state: State, text: str) -> Turn:
        part = field_named(text)
        said = numbers.figures(text)
        if numbers.is_number(said):
            return self._next(state, replace(state.draft, number=said))
        if part is None:
            return self._interrupted(state, text)
        if part is Field.NAME and answers.introduces_name(text) and "wrong" not in text:
            name = answers.person_name(text)
            if name:
                return self._next(state, replace(state.draft, name=name))
        return self._asked(state, _STEP_OF[part])

    def _while_storing(self, state: State) -> Turn:
        """Nothing was heard of the tool: the second time it is asked again, for a message must not be lost."""
        if state.misses == 0:
            return Turn(replace(state, misses=1), ONE_MOMENT)
        return Turn(replace(state, misses=0), ONCE_MORE, stores=state.draft)

    # What the steps have in common

    def _interrupted(self, state: State, text: str) -> Turn:
        """Not the answer that was asked for: another question, perhaps."""
        intent = self._intent(text)
        return self._acted(state, intent) if intent is not None else self._missed(state, NOT_UNDERSTOOD)

    def _acted(self, state: State, intent: Intent) -> Turn:
        match intent.action:
            case Action.GOODBYE if state.step is Step.CONFIRM and state.misses == 0:
                return Turn(replace(state, misses=1), BEFORE_YOU_GO)
            case Action.GOODBYE:
                return Turn(State(), intent.answer, hangs_up=True)
            case Action.CANCEL:
                return Turn(State(), f"{intent.answer} {QUESTIONS[Step.OPEN]}")
            case Action.REPEAT:
                again = state.said or NOTHING_SAID
                return Turn(state, again if again.startswith(intent.answer) else f"{intent.answer} {again}")
            case Action.TAKE_MESSAGE | Action.OFFER_MESSAGE if not self._takes_messages:
                return Turn(State(), NO_MESSAGES)
            case Action.TAKE_MESSAGE | Action.OFFER_MESSAGE if state.step in _FORM:
                return Turn(state, self._question(state))
            case Action.TAKE_MESSAGE:
                return Turn(State(Step.NAME), f"{intent.answer} {QUESTIONS[Step.NAME]}")
            case Action.OFFER_MESSAGE:
                return Turn(State(Step.OFFERED), intent.answer)
            case Action.ANSWER if state.step in _FORM:
                return Turn(replace(state, misses=0), f"{intent.answer} {self._question(state)}")
            case Action.ANSWER:
                return Turn(State(), intent.answer)

    def _missed(self, state: State, apology: str) -> Turn:
        misses = state.misses + 1
        if state.step in _FORM:
            if misses >= _MOST_MISSES:
                return Turn(State(), GAVE_UP)
            return Turn(replace(state, misses=misses), AGAIN[state.step])
        if state.step is Step.OPEN and misses >= 2 and self._takes_messages:
            return Turn(State(Step.OFFERED), f"{STILL_NOT_UNDERSTOOD} {QUESTIONS[Step.OFFERED]}")
        if state.step in AGAIN and misses < 2:
            return Turn(replace(state, misses=misses), AGAIN[state.step])
        return Turn(State(misses=1), f"{apology} {can_be_asked(self._faq.topics)}")

    def _next(self, state: State, draft: Draft) -> Turn:
        """Asks for the first part that is missing, or reads all of it back."""
        if not draft.name:
            return self._asked(replace(state, draft=draft), Step.NAME)
        if not draft.number:
            step = Step.OWN_NUMBER if self._own_number else Step.NUMBER
            asked = State(step, draft)
            return Turn(asked, f"Thank you, {draft.name}. {QUESTIONS[step]}")
        if not draft.reason:
            return Turn(State(Step.REASON, draft), f"{THANK_YOU} {QUESTIONS[Step.REASON]}")
        asked = State(Step.CONFIRM, draft)
        return Turn(asked, self._question(asked))

    def _asked(self, state: State, step: Step) -> Turn:
        if step is Step.NAME and not self._takes_messages:
            return Turn(State(), NO_MESSAGES)
        return Turn(State(step, replace(state.draft, partial="")), QUESTIONS[step])

    def _question(self, state: State) -> str:
        return state.draft.read_back() if state.step is Step.CONFIRM else QUESTIONS[state.step]

    def _intent(self, text: str, at_least: float = 0.0) -> Intent | None:
        guess = self._classifier.guess(text)
        if guess.intent is None or guess.confidence < at_least:
            return None
        return self._faq.intents[guess.intent]

    def _remembering(self, turn: Turn) -> Turn:
        return replace(turn, state=replace(turn.state, said=turn.says))
