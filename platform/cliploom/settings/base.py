"""What sections of settings are made of, and the types of their values in words."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

T = TypeVar("T")
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Precision = Literal["fp32", "bf16"]


def _ascending(value: T) -> T:
    if isinstance(value, tuple) and value[0] > value[1]:
        raise ValueError("the first number must not be above the second")
    return value


Ascending = AfterValidator(_ascending)


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values can't be changed once validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, value: Any) -> Any:
        """A section whose keys are all commented out is None in YAML."""
        return {} if value is None else value


def type_name(kind: Any) -> str:
    """A type in words: `str|none`, `[int, int]`, `{uri: str, weight: float}`."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = kind.model_fields.items()
        return f"{{{', '.join(f'{name}: {type_name(field.annotation)}' for name, field in fields)}}}"
    if get_origin(kind) is None:
        return "none" if kind is type(None) else getattr(kind, "__name__", str(kind))
    arguments = [str(a) if get_origin(kind) is Literal else type_name(a) for a in get_args(kind)]
    match get_origin(kind):
        case origin if origin is Annotated:
            return arguments[0]
        case origin if origin is tuple:
            return f"[{', '.join(arguments)}]"
        case origin if origin is list:
            return f"[{arguments[0]}, ...]"
        case origin if origin is dict:
            return f"{{{': '.join(arguments)}}}"
        case _:
            return "|".join(arguments)
