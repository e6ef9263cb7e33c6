"""Why the rules that follow from the registry are there, and what breaks without them.

They are of a few kinds; each kind says the same of whatever it is a rule of. Two sentences or so,
with the names filled in.
"""

from __future__ import annotations

from extmem.vk import _structures, _validity
from extmem.vk._base import Structure

__all__ = ["reasons"]

# By kind: what it is for, what happens without it.
#   owner: the structure or command, member, type, count: of what the rule is about
#   lost: what is lost when a driver does not see the structure
#   refused: the exception that Python raises instead
_TEXTS: dict[str, tuple[str, str]] = {
    "type": (
        "What a call is given behind an address is known by its sType alone: by that a driver "
        "tells a {owner} from everything else.",
        "A driver takes it for what the number names, and reads or writes past its end. Or it "
        "passes over it: {lost}.",
    ),
    "last": (
        "No structure extends {owner}, so whatever follows it was meant for another place.",
        "Drivers pass over what they do not look for, and what was asked for there is not done, "
        "without an error. One that takes everything for an extension of its own reads garbage.",
    ),
    "chain": (
        "Only some structures mean something behind {owner}: {followers}. Any other was meant for "
        "another place.",
        "Drivers pass over what they do not look for, and what was asked for there is not done, "
        "without an error. One that takes everything for an extension of its own reads garbage.",
    ),
    "once": (
        "Each structure has one place in a chain. Which of two would count is written nowhere.",
        "One driver goes by the first, another by the last, and the program means something else "
        "on each of them.",
    ),
    "dispatch": (
        "The {type} says which driver answers, and which of its objects: the call goes through "
        "its table of functions.",
        "That table goes with the {type}. A call through a destroyed one jumps into freed memory, "
        "and the process ends, at best.",
    ),
    "handle": (
        "{owner} is about the {type} in {member}, so there has to be one.",
        "A driver follows the number of a destroyed {type} into freed memory, or to a younger "
        "object that got the same number: a crash, or somebody else's bytes.",
    ),
    "handle or none": (
        "{member} may be VK_NULL_HANDLE, which says that there is none. Any other number is "
        "followed to a {type}.",
        "A driver follows the number of a destroyed {type} into freed memory, or to a younger "
        "object that got the same number: a crash, or somebody else's bytes.",
    ),
    "handles": (
        "Where {count} is not 0, {member} lists so many, and each of them is used.",
        "A driver reads the list from wherever the pointer points, and follows each number that "
        "it finds; the first that is no living {type} ends the process or is somebody else's.",
    ),
    "array": (
        "{count} says how many values {member} has; where it is not 0, they have to be there.",
        "A driver reads the values from address 0, and the process ends. It trusts the count.",
    ),
    "array or none": (
        "{count} says how many values {member} has, if it has any: a driver reads so many.",
        "In C nobody notices an array that is too short: a driver takes what lies behind it for "
        "more values. extmem.vk knows how long the array is that it was given, and raises "
        "{refused} before any rule is looked at.",
    ),
    "enum": (
        "{member} is one of the cases of {type}, each of which a driver knows how to treat.",
        "For a number between or beyond them a driver has no case: it takes another one, or reads "
        "past the end of a table.",
    ),
    "one bit": (
        "{member} makes one choice, so exactly one bit of {type} is set.",
        "A driver compares with the bits that it knows. With none, with two or with an unknown "
        "one nothing fits: the call fails, or does what the first comparison says.",
    ),
    "one bit or none": (
        "{member} makes one choice, so one bit of {type} is set; 0 turns {owner} off.",
        "A driver compares with the bits that it knows. With two or with an unknown one nothing "
        "fits: the call fails, or does what the first comparison says.",
    ),
    "bits": (
        "Each bit of {type} asks for something. Those without a name are kept for what later "
        "versions may ask for.",
        "Drivers of today pass over the bit, and all seems well. One that knows it does something "
        "that nobody asked for.",
    ),
    "input": (
        "All that {owner} is to do is said in a {type}, and {member} is where it lies.",
        "A driver looks into it without asking: it reads from address 0, and the process ends.",
    ),
    "inputs": (
        "{count} says how many {type} lie at {member}; where it is not 0, they have to be there.",
        "A driver looks into them without asking: it reads from address 0, and the process ends.",
    ),
    "output": (
        "A driver writes its answer to the address in {member}, so there has to be room for it.",
        "In C the answer is written over whatever lies there, or the process ends. extmem.vk makes "
        "the room itself and returns the answer: it has no such parameter, and one that is passed "
        "all the same is a {refused} before any rule is looked at.",
    ),
    "output structure": (
        "A driver writes its answer to the {type} in {member}, so there has to be room for one.",
        "In C the answer is written over whatever lies there, or the process ends. extmem.vk makes "
        "the structure unless it is given one, and takes no other than a {type}: anything else is "
        "a {refused} before any rule is looked at.",
    ),
    "allocator": (
        "A driver that is given {member} calls the functions in it whenever it needs memory for "
        "itself, so they have to be there for as long as the object is.",
        "In C a wrong address there is called as a function. extmem.vk always passes NULL, by "
        "which drivers allocate for themselves: it has no such parameter, and one that is passed "
        "all the same is a {refused} before any rule is looked at.",
    ),
    "security": (
        "Windows reads the SECURITY_ATTRIBUTES by their nLength, and copies the descriptor behind "
        "them into the handle that is made.",
        "Windows refuses to make the handle, long after the structure was filled in; or garbage "
        "says who may open it.",
    ),
    "pages": (
        "{member} is where the memory begins that the device is to use.",
        "There is nothing at address 0, so a driver refuses; one that does not look gives the "
        "device pages that are nobody's.",
    ),
    "count": (
        "With {member} = 0 there is nothing to do, and drivers need not be prepared for that.",
        "A driver that begins with the first element reads one that is not there.",
    ),
    "parent": (
        "Handles mean something on the device that made them, and on no other.",
        "A driver takes the number for one of its own: it finds nothing and crashes, or finds "
        "another {type} and works on that.",
    ),
    "parents": (
        "Handles mean something on the device that made them, and a {owner} is for one device: all "
        "that it names is of that.",
        "A driver takes the number for one of its own: it finds nothing and crashes, or finds "
        "another object and works on that.",
    ),
    "queues": (
        "A device may be made without any queue, to prepare pipelines for others. Nothing on it "
        "could ever use memory.",
        "Drivers need not prepare such a device for allocations: the call fails, or follows a "
        "pointer that was never set.",
    ),
}


def reasons(parent: str, tail: str, lost: str, refused: str) -> tuple[str, str]:
    """What a rule is for, and what happens without it.

    parent, tail: its name is "VUID-{parent}-{tail}"
    lost: what is lost when a driver does not see the structure
    refused: the exception that Python raises instead, "" where the rule is looked at

    >>> reasons("VkMemoryGetFdInfoKHR", "handleType-parameter", "", "")[0]
    'handleType makes one choice, so exactly one bit of VkExternalMemoryHandleTypeFlagBits is set.'
    """
    member = tail.split("-")[0]
    found = _entry(parent, member)
    why, breaks = _TEXTS[_kind(parent, tail, found)]
    _, _, type_, count, _ = found or ("", "", "", None, "")
    named = {
        "owner": parent,
        "member": member,
        "type": type_,
        "count": count,
        "followers": ", ".join(_followers(parent)),
        "lost": lost,
        "refused": refused,
    }
    return why.format_map(named), breaks.format_map(named)


def _followers(parent: str) -> tuple[str, ...]:
    return _validity.STRUCTURES[parent][0] if parent in _validity.STRUCTURES else ()


def _entry(parent: str, member: str) -> _validity.Entry | None:
    """What the registry says of a member or parameter; None where the rule is of neither."""
    if parent in _validity.COMMANDS:
        entries = _validity.COMMANDS[parent]
    else:
        entries = _validity.STRUCTURES[parent][1]
    return next((each for each in entries if each[0] == member), None)


_BY_TAIL = {
    "sType-sType": "type",
    "sType-unique": "once",
    "commonparent": "parents",
    "device-queuecount": "queues",
    "pAllocator-parameter": "allocator",
}
_BY_END = {"arraylength": "count", "parent": "parent"}
_BY_KIND = {"enum": "enum", "flags": "bits", "handles": "handles"}


def _kind(parent: str, tail: str, found: _validity.Entry | None) -> str:
    """Which of the texts a rule gets."""
    if tail == "pNext-pNext":
        return "chain" if _followers(parent) else "last"
    if tail in _BY_TAIL:
        return _BY_TAIL[tail]
    end = tail.split("-")[-1]
    if end in _BY_END:
        return _BY_END[end]
    assert found is not None, f"VUID-{parent}-{tail} is of no known kind"
    _, kind, type_, count, letters = found
    if kind == "handle":
        if found is _validity.COMMANDS.get(parent, (None,))[0]:
            return "dispatch"
        return "handle or none" if "o" in letters else "handle"
    if kind == "bit":
        return "one bit or none" if "o" in letters else "one bit"
    if type_ == "void" and "p" not in letters:
        return "pages"
    if type_ == "SECURITY_ATTRIBUTES":
        return "security"
    if "w" in letters:
        return "output structure" if _is_given(type_) else "output"
    if kind == "structs":
        return "inputs" if count else "input"
    if kind == "pointer":
        return "array or none" if "o" in letters else "array"
    return _BY_KIND[kind]


def _is_given(type_: str) -> bool:
    """Whether a structure to fill may be the caller's: extensible ones, for their chains."""
    cls = getattr(_structures, type_, None)
    return isinstance(cls, type) and issubclass(cls, Structure) and cls._stype_ is not None
