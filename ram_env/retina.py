"""The glimpse sensor: what the agent sees of an image from one location.

Dimension key:
    N: images (one per sub-environment)
    H, W: image height and width [px]
    C: colour planes (1 for grey images)
    S: scales, finest first
    G: glimpse side [px]
    K: side of the coarsest patch, G * 2^(S-1) [px]
"""

import numpy as np

from ram_env import arrays as xp
from ram_env.arrays import Array
from ram_env.checks import check_glimpse, expect, to_python

_CHUNK = 128  # images sensed at once in NumPy: their patches stay in a core's cache
_PAIR_MASKS = (0x00FF00FF00FF00FF, 0x0000FFFF0000FFFF, 0x00000000FFFFFFFF)


def extract_glimpses(images: Array, locations: Array, *, size: int, num_scales: int = 1) -> Array:
    """Cut concentric square patches around each location, coarser as they grow.

    Patch s covers ``size * 2**s`` pixels a side and is averaged down to ``size``, so each
    costs the agent the same number of inputs. Pixels outside the image read as 0. The
    result is bit-identical in NumPy, in torch on a CPU and in torch on a GPU.

    Args:
        images: Grey or colour images, uint8, NumPy array or torch tensor.
            Shape (N, H, W) or (N, H, W, C).
        locations: Patch centres as (x, y), x to the right and y down, in [-1, 1]: (-1, -1)
            is the top left corner, (0, 0) the centre. Shape (N, 2).
        size: G, side of every returned patch [px], even.
        num_scales: S, number of patches per location.

    Returns:
        Glimpses in [0, 1], finest first; channel s * C + c is colour c at scale s.
        Shape (N, S * C, G, G), float32.

    Raises:
        ValueError: If a shape, dtype or size is wrong, images and locations disagree on N,
            or a location is not finite or lies outside [-1, 1].

    Source:
        Mnih et al. (2014), arXiv:1406.6247, glimpse sensor rho(x_t, l_{t-1}). Shrinking by
        averaging is our choice: a constant image stays constant at every scale.
    """
    images = images if xp.is_tensor(images) else xp.to_array("images", images)[0]
    fits, got = images.ndim in (3, 4), f"{images.dtype} of shape {tuple(images.shape)}"
    fits &= xp.dtype_name(images) == "uint8"
    expect(fits, f"images must be uint8 of shape (N, H, W) or (N, H, W, C), got {got}")
    locations, kind = xp.to_array("locations", locations, xp.device_of(images))
    expect(kind in "fiu", f"locations must hold real numbers, got dtype {locations.dtype}")
    locations, shape = xp.cast(locations, "float32"), tuple(locations.shape)
    wanted = f"({len(images)}, 2), one (x, y) for each image"
    expect(shape == (len(images), 2), f"locations must have shape {wanted}, got {shape}")
    if not bool((abs(locations) <= 1).all()):  # also false for NaN
        raise ValueError(f"locations must be finite and lie in [-1, 1], got {locations}")
    size, num_scales = to_python(size), to_python(num_scales)
    check_glimpse("size", size, num_scales, min(images.shape[1:3]))
    planes = images[:, None] if images.ndim == 3 else images.swapaxes(1, 3).swapaxes(2, 3)
    margin, (n, channels, height, width) = margin_of(size, num_scales), planes.shape
    padded = xp.new_empty(planes, (n, channels, height + 2 * margin, width + 2 * margin), "uint8")
    padded[:] = 0
    padded[:, :, margin : margin + height, margin : margin + width] = planes
    lanes = xp.to_device(np.arange(n), xp.device_of(padded))
    return sense(padded, lanes, locations, size=size, num_scales=num_scales)


def margin_of(size: int, num_scales: int) -> int:
    """Return the border [px] that holds the coarsest patch at the image's very edge."""
    return size * 2**num_scales // 4


def to_pixels(coordinates: Array, side: int) -> Array:
    """Return the pixel corners at float32 coordinates: rint((l + 1) * (side / 2)), int64.

    Half goes to even; float32 in this order, so that every device gets the same integer.
    """
    return xp.cast(((coordinates + 1) * (side / 2)).round(), "int64")


def sense(padded: Array, lanes: Array, locations: Array, *, size: int, num_scales: int) -> Array:
    """Sense padded images: :func:`extract_glimpses` without checks.

    Args:
        padded: Images with :func:`margin_of` zeros around. Shape (N, C, H + K, W + K), uint8.
        lanes: Which image each location belongs to. Shape (n,), integers.
        locations: In [-1, 1]. Shape (n, 2), float32.
        size: G.
        num_scales: S.
    """
    n, channels = len(lanes), padded.shape[1]
    coarsest = size * 2 ** (num_scales - 1)
    columns = to_pixels(locations[:, 0], padded.shape[3] - coarsest)
    rows = to_pixels(locations[:, 1], padded.shape[2] - coarsest)  # (n,), patch top in padded
    glimpses = xp.new_empty(padded, (n, num_scales, channels, size, size), "float32")
    chunk = max(n, 1) if xp.is_tensor(padded) else _CHUNK
    for start in range(0, n, chunk):
        part = slice(start, start + chunk)
        patches = xp.read_patches(
            padded, lanes[part], rows[part], columns[part], coarsest, coarsest
        )  # (chunk, C, K, K)
        _shrink(patches, glimpses[part])
    for scale in range(num_scales):  # multiplied, never divided: CUDA rewrites divisions
        glimpses[:, scale] *= float(np.float32(1 / (255 * 4**scale)))
    return glimpses.reshape(n, num_scales * channels, size, size)


def _shrink(patches: Array, sums: Array) -> None:
    """Fill ``sums`` (n, S, C, G, G) from the coarsest ``patches`` (n, C, K, K), uint8.

    Scale s holds sums over 2^s x 2^s pixels: exact integers, below 2^24.
    """
    num_scales, size = sums.shape[1], sums.shape[3]
    for scale in range(num_scales):
        edge = (patches.shape[3] - size) // 2
        sums[:, scale] = patches[:, :, edge : edge + size, edge : edge + size]
        if scale < num_scales - 1:
            patches = _add_blocks(patches, scale)


def _add_blocks(sums: Array, scale: int) -> Array:
    """Add blocks of 2x2: (n, C, k, k) sums at ``scale`` to (n, C, k/2, k/2) at the next.

    NumPy adds neighbours of a row slowly, so up to scale 2 the numbers stay packed in
    words of 64 bits and each is added to its neighbour inside the word, which also makes
    room for the result: 8 bytes become 4 pairs of 16 bits, then 2 of 32, then 1 of 64.
    In torch each operation would be a kernel, so it is one sum.
    """
    if xp.is_tensor(sums):
        blocks = sums.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (n, C, k/2, 2, k/2, 2)
        return blocks.sum((3, 5), dtype=xp.library(sums).int32)
    if scale < len(_PAIR_MASKS):
        word = "int64" if sums.shape[3] % (8 >> scale) == 0 else "int32"
        mask = _PAIR_MASKS[scale] & (-1 if word == "int64" else 0x7FFFFFFF)
        words = sums.view(word)  # the same bytes
        pairs = (words & mask) + ((words >> (8 << scale)) & mask)
        pairs = pairs.view(f"int{16 << scale}")  # (n, C, k, k/2)
    else:
        pairs = sums[..., 0::2] + sums[..., 1::2]
    return pairs[:, :, 0::2] + pairs[:, :, 1::2]
