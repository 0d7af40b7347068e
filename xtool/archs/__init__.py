"""Architectures: one file each, composed from layers by configuration."""

from xtool.archs._child import (
    Child,
    build_size,
    count_size,
    prefix,
    source_of,
    start_gains,
    start_sizes,
)
from xtool.archs._contracts import (
    After,
    Architecture,
    Between,
    Compiling,
    Loops,
    Model,
    Noting,
    Stepped,
    TrainingCosts,
)
from xtool.archs._making import (
    FORWARD_AND_BACKWARD,
    architecture,
    build,
    checked,
    configured,
    count,
    empty,
    flops,
    start,
    stored_names,
)
from xtool.archs._nest import (
    SIZE,
    canonical,
    inner,
    is_trained,
    place_of,
    require_size,
    weights_of,
)
from xtool.archs._reading import (
    Stage,
    fill,
    model_header,
    open_model,
    read_model,
    require_names,
    stored_stages,
)
from xtool.archs._sizes import (
    HEAD,
    Size,
    axes_of,
    label_of,
    parse_size,
    same_size,
    size_of,
    sized,
    sizes_of,
)
