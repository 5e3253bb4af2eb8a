#include "op_conv2d.h"

#include <optional>
#include <string>
#include <vector>

#include "cpu/conv.h"
#include "op_copy.h"
#include "op_shared.h"

namespace sparsekern {

namespace {

// The ints of the op, in the order of its schema in kernels/cpu_conv.py.
struct Numbers {
  int64_t out, in, kh, kw, stride_h, stride_w, top, left, bottom, right, dilation_h, dilation_w, kernel,
      activation;

  explicit Numbers(const StableValue* stack) {
    int64_t* const fields[] = {&out,  &in,     &kh,    &kw,         &stride_h,   &stride_w, &top,
                               &left, &bottom, &right, &dilation_h, &dilation_w, &kernel,   &activation};
    for (int64_t* field : fields) *field = int64_t(*stack++);
  }
};

std::string words_of(const Numbers& w) {
  return "(" + std::to_string(w.out) + ", " + std::to_string(w.in) + ", " + std::to_string(w.kh) + ", " +
         std::to_string(w.kw) + ")";
}

// Dense, with columns or channels side by side.
bool is_channels_last(const Tensor& x) {
  const int64_t *sizes = x.sizes(), *strides = x.strides();
  const int64_t order[] = {1, 3, 2, 0};
  int64_t expected = 1;
  for (const int64_t d : order) {
    if (sizes[d] != 1 && strides[d] != expected) return false;
    expected *= sizes[d];
  }
  return true;
}

MapStrides strides_of(int64_t channels, int64_t height, int64_t width, bool channels_last) {
  if (channels_last) return {channels * height * width, 1, width * channels, channels};
  return {channels * height * width, height * width, width, 1};
}

int64_t output_size(int64_t size, int64_t before, int64_t after, int64_t taps, int64_t stride,
                    int64_t dilation) {
  const int64_t free = size + before + after - dilation * (taps - 1) - 1;
  return free < 0 ? 0 : free / stride + 1;
}

void check_input(const Tensor& x, const Tensor& values, const Numbers& w) {
  if (x.dim() != 4 || x.sizes()[1] != w.in || !(x.contiguous() || is_channels_last(x)))
    throw std::invalid_argument("x: expected (N, " + std::to_string(w.in) +
                                ", H, W), contiguous or channels last, for a weight of shape " + words_of(w) +
                                ", got " + words_of_shape(x));
  if (!takes(x.dtype_code()) || values.dtype_code() != x.dtype_code())
    throw std::invalid_argument("x is " + x.dtype() + ", the weight " + values.dtype() +
                                "; expected one of torch.float32, torch.bfloat16, torch.float16 for both");
  for (const int64_t least_one :
       {w.out, w.in, w.kh, w.kw, w.stride_h, w.stride_w, w.dilation_h, w.dilation_w})
    if (least_one < 1 || least_one > INT32_MAX)
      throw std::invalid_argument("expected channels, kernel, stride and dilation in [1, 2^31)");
  if (w.kh > kMostPanelColumns || w.kw > kMostPanelColumns || w.kh * w.kw > kMostPanelColumns)
    throw std::invalid_argument("kernel: expected at most " + std::to_string(kMostPanelColumns) +
                                " taps, got " + std::to_string(w.kh) + " x " + std::to_string(w.kw));
  for (const int64_t pad : {w.top, w.left, w.bottom, w.right})
    if (pad < 0 || pad > INT32_MAX)
      throw std::invalid_argument("padding: expected in [0, 2^31), got " + std::to_string(pad));
}

// As check_weight of Linear; what crow and col must be depends on the kernel.
void check_weight(const Tensor& values, const Tensor& crow, const Tensor& col, const Tensor& index,
                  const Numbers& w) {
  check_blocks(values, crow, col, index);
  const int64_t taps = w.kh * w.kw;
  const PanelShape shape{w.out,         w.in * taps, values.sizes()[1], taps, conv_panel_groups(w.kh, w.kw),
                         kConvPanelRows};
  if (!is_index_of(index, shape, values.sizes()[0]))
    throw std::invalid_argument("crow, col and index do not belong to values " + words_of_shape(values) +
                                " of a weight " + words_of(w));
}

void check_size(const ConvArgs& a) {
  if (a.height < 1 || a.width < 1 || a.out_height < 1 || a.out_width < 1)
    throw std::invalid_argument("x: expected a map that is not empty, nor smaller than the kernel, got " +
                                std::to_string(a.height) + " x " + std::to_string(a.width));
}

// Kernels count floats of a tile's planes in 32 bits.
void check_places(const ConvArgs& a) {
  constexpr int64_t kMostLanes = 16;
  const PanelIndex index{const_cast<int32_t*>(a.panels)};
  if (index.header().live * ConvPlanes(a, kTileRows).of_group > INT32_MAX / kMostLanes)
    throw std::invalid_argument("x: " + std::to_string(kTileRows) + " rows of outputs see more inputs than " +
                                std::to_string(INT32_MAX / kMostLanes) + " vectors");
}

const ConvKernel& kernel_of(int64_t id, int64_t v) {
  if (id == kChooseKernel) id = choose_conv2d(v);
  if (id < 0 || id >= kConvKernels || (current_isa->conv[id].copies && v > kPanelHeight))
    throw std::invalid_argument("kernel: expected -1 (choose) or the number of a kernel that takes blocks (" +
                                std::to_string(v) + ", 1), got " + std::to_string(id));
  return current_isa->conv[id];
}

TensorHandle empty_map(const ConvArgs& a, int32_t dtype) {
  const int64_t sizes[] = {a.batch, a.n, a.out_height, a.out_width};
  const int64_t strides[] = {a.y_strides.image, a.y_strides.channel, a.y_strides.row, a.y_strides.column};
  TensorHandle y = nullptr;
  const TorchApi& torch = torch_api();
  check_torch(
      torch.aoti_torch_empty_strided(4, sizes, strides, dtype, torch.aoti_torch_device_type_cpu(), 0, &y),
      "empty_strided");
  return y;
}

void check_residual(const Tensor& residual, const Tensor& y, const Tensor& x) {
  bool same = residual.dim() == 4 && residual.dtype_code() == x.dtype_code();
  for (int64_t d = 0; same && d < 4; ++d)
    same =
        residual.sizes()[d] == y.sizes()[d] && (y.sizes()[d] == 1 || residual.strides()[d] == y.strides()[d]);
  if (!same)
    throw std::invalid_argument("residual: expected " + x.dtype() + " " + words_of_shape(y) +
                                " in the memory format of x, got " + residual.dtype() + " " +
                                words_of_shape(residual));
}

ConvArgs args_of(const Tensor& x, const Tensor& values, const Tensor& index, const Numbers& w,
                 bool channels_last) {
  ConvArgs a{};
  a.batch = x.sizes()[0], a.channels = w.in, a.height = x.sizes()[2], a.width = x.sizes()[3];
  a.n = w.out, a.v = values.sizes()[1], a.activation = activation_of(w.activation);
  a.out_height = output_size(a.height, w.top, w.bottom, w.kh, w.stride_h, w.dilation_h);
  a.out_width = output_size(a.width, w.left, w.right, w.kw, w.stride_w, w.dilation_w);
  a.kh = w.kh, a.kw = w.kw, a.stride_h = w.stride_h, a.stride_w = w.stride_w;
  a.pad_top = w.top, a.pad_left = w.left, a.dilation_h = w.dilation_h, a.dilation_w = w.dilation_w;
  a.x_strides = strides_of(a.channels, a.height, a.width, channels_last);
  a.y_strides = strides_of(a.n, a.out_height, a.out_width, channels_last);
  a.panels = index.data<int32_t>();
  return a;
}

void cpu_conv2d(StableValue* stack, uint64_t, uint64_t) {
  const Tensor x(stack[0]), values(stack[1]), bias(Tensor::unwrap(stack[2])),
      residual(Tensor::unwrap(stack[3])), crow(stack[4]), col(stack[5]), index(stack[6]);
  const Numbers w(stack + 7);
  check_input(x, values, w);
  if (bias.defined()) check_bias(bias, values, w.out);
  check_weight(values, crow, col, index, w);
  ConvArgs args = args_of(x, values, index, w, !x.contiguous());
  check_size(args);
  const ConvKernel& kernel = kernel_of(w.kernel, args.v);
  if (!kernel.copies && (crow.numel() != args.block_rows() + 1 || col.numel() != values.sizes()[0]))
    throw std::invalid_argument("kernel " + std::string(kernel.name) + ": expected crow of " +
                                std::to_string(args.block_rows() + 1) + " and col of " +
                                std::to_string(values.sizes()[0]) + " entries, got " +
                                std::to_string(crow.numel()) + " and " + std::to_string(col.numel()));
  check_places(args);
  Tensor y(reinterpret_cast<StableValue>(empty_map(args, x.dtype_code())));
  if (residual.defined()) check_residual(residual, y, x);
  const Sums sums(y, args.batch, args.n * args.out_height * args.out_width);
  if (y.numel() != 0) {
    const Floats input(x), added(residual);
    std::optional<Rows> terms;
    if (bias.defined()) args.bias = terms.emplace(bias, w.out).data;
    args.x = input.data, args.residual = added.data, args.y = sums.data();
    const PanelIndex packed{const_cast<int32_t*>(args.panels)};
    args.crow = crow.numel() ? crow.data<int32_t>() : nullptr;
    args.col = packed.compact() ? packed.compact() : col.data<int32_t>();
    run_on_values(kernel, args, values);
    sums.write();
  }
  stack[0] = y.release();
}

}  // namespace

int64_t choose_conv2d(int64_t v) { return v <= kPanelHeight ? 0 : 1; }

void register_conv2d() {
  LibraryHandle library = nullptr;  // lives as long as the process
  check_torch(torch_api().aoti_torch_library_init_impl("sparsekern", "CPU", __FILE__, __LINE__, &library),
              "library_init");
  check_torch(torch_api().torch_library_impl(library, "cpu_conv2d", cpu_conv2d, kAbiVersion), "library_impl");
}

}  // namespace sparsekern
