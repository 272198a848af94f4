"""Dynamic tools: what `startThread` may offer to the model for the client to carry out."""

from typing import Annotated, Any, Literal

from pydantic import Field

from supervisor.rpc.methods import Params

ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Description = Annotated[str, Field(max_length=16_384)]


class FunctionTool(Params):
    type: Literal["function"]
    name: ToolName
    description: Description
    input_schema: dict[str, Any]
    """JSON Schema of the arguments."""
    defer_loading: bool = False


class NamespaceTool(Params):
    type: Literal["namespace"]
    name: ToolName
    description: Description
    tools: Annotated[list[FunctionTool], Field(max_length=64)]


DynamicTools = Annotated[
    list[Annotated[FunctionTool | NamespaceTool, Field(discriminator="type")]],
    Field(max_length=64),
]
