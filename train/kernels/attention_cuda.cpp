// Causal attention by cuDNN's fused kernels (arXiv 2307.08691), described to it by its front end.
// Queries, keys and values lie inside the rows of qkv, so a head is a strided tensor and nothing is
// copied. A graph is built for a shape when it is met first (about a second) and kept; the gradient
// uses the deterministic algorithm.
#include <cudnn_frontend.h>

#include <algorithm>
#include <cmath>
#include <compare>
#include <cstdint>
#include <map>
#include <unordered_map>

#include "train/kernels/attention_single_cuda.cuh"
#include "train/kernels/device_cuda.cuh"
#include "train/kernels/ops_cuda.h"

namespace holdfast::train::kernels {
namespace {

namespace fe = cudnn_frontend;
using Tensor = std::shared_ptr<fe::graph::Tensor_attributes>;

enum Id : int64_t { kQ = 1, kK, kV, kOut, kKept, kDout, kDq, kDk, kDv };

}  // namespace

struct AttentionGraphs {
  struct ShapeKey {
    size_t sequences, context, heads, kv_heads, head_width;
    auto operator<=>(const ShapeKey&) const = default;
  };
  struct BuiltGraph {
    std::shared_ptr<fe::graph::Graph> graph;
    int64_t workspace = 0;
    std::string error;  // empty: it can be executed
  };
  std::map<ShapeKey, BuiltGraph> forward, backward;
  DeviceBuffer<unsigned char> workspace;
};

namespace {

using BuiltGraph = AttentionGraphs::BuiltGraph;

AttentionGraphs::ShapeKey key_of(AttentionShape s) {
  return {s.sequences, s.context, s.heads, s.kv_heads, s.head_width};
}

// [B, heads, T, A] inside rows of `row` elements.
Tensor heads_in_rows(fe::graph::Graph& graph, AttentionShape s, size_t heads, size_t row, Id id) {
  const auto i = [](size_t value) { return static_cast<int64_t>(value); };
  return graph.tensor(fe::graph::Tensor_attributes()
                          .set_uid(id)
                          .set_dim({i(s.sequences), i(heads), i(s.context), i(s.head_width)})
                          .set_stride({i(s.context * row), i(s.head_width), i(row), 1})
                          .set_data_type(fe::DataType_t::BFLOAT16));
}

void write_heads(const Tensor& tensor, AttentionShape s, size_t heads, size_t row, Id id) {
  const auto i = [](size_t value) { return static_cast<int64_t>(value); };
  tensor->set_output(true)
      .set_uid(id)
      .set_dim({i(s.sequences), i(heads), i(s.context), i(s.head_width)})
      .set_stride({i(s.context * row), i(s.head_width), i(row), 1})
      .set_data_type(fe::DataType_t::BFLOAT16);
}

void describe_kept(fe::graph::Tensor_attributes& tensor, AttentionShape s) {
  const auto b = static_cast<int64_t>(s.sequences), h = static_cast<int64_t>(s.heads),
             t = static_cast<int64_t>(s.context);
  tensor.set_uid(kKept)
      .set_dim({b, h, t, 1})
      .set_stride({h * t, t, 1, 1})
      .set_data_type(fe::DataType_t::FLOAT);
}

std::shared_ptr<fe::graph::Graph> new_graph() {
  auto graph = std::make_shared<fe::graph::Graph>();
  graph->set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  return graph;
}

float score_scale(AttentionShape s) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.head_width)));
}

std::shared_ptr<fe::graph::Graph> describe_forward(AttentionShape s) {
  auto graph = new_graph();
  const Tensor q = heads_in_rows(*graph, s, s.heads, s.packed_width(), kQ);
  const Tensor k = heads_in_rows(*graph, s, s.kv_heads, s.packed_width(), kK);
  const Tensor v = heads_in_rows(*graph, s, s.kv_heads, s.packed_width(), kV);
  const auto options = fe::graph::SDPA_attributes()
                           .set_name("attention")
                           .set_generate_stats(true)
                           .set_causal_mask(true)
                           .set_attn_scale(score_scale(s));
  auto [out, kept] = graph->sdpa(q, k, v, options);
  write_heads(out, s, s.heads, s.width(), kOut);
  kept->set_output(true);
  describe_kept(*kept, s);
  return graph;
}

std::shared_ptr<fe::graph::Graph> describe_backward(AttentionShape s) {
  auto graph = new_graph();
  const Tensor q = heads_in_rows(*graph, s, s.heads, s.packed_width(), kQ);
  const Tensor k = heads_in_rows(*graph, s, s.kv_heads, s.packed_width(), kK);
  const Tensor v = heads_in_rows(*graph, s, s.kv_heads, s.packed_width(), kV);
  const Tensor out = heads_in_rows(*graph, s, s.heads, s.width(), kOut);
  const Tensor dout = heads_in_rows(*graph, s, s.heads, s.width(), kDout);
  fe::graph::Tensor_attributes kept_attributes;
  describe_kept(kept_attributes, s);
  const Tensor kept = graph->tensor(kept_attributes);
  const auto options = fe::graph::SDPA_backward_attributes()
                           .set_name("attention_input_gradient")
                           .set_causal_mask(true)
                           .set_attn_scale(score_scale(s))
                           .set_deterministic_algorithm(true);
  auto [dq, dk, dv] = graph->sdpa_backward(q, k, v, out, dout, kept, options);
  write_heads(dq, s, s.heads, s.packed_width(), kDq);
  write_heads(dk, s, s.kv_heads, s.packed_width(), kDk);
  write_heads(dv, s, s.kv_heads, s.packed_width(), kDv);
  return graph;
}

BuiltGraph build(Cuda::Impl& impl, std::shared_ptr<fe::graph::Graph> graph) {
  BuiltGraph built{std::move(graph), 0, {}};
  auto status = built.graph->build(impl.dnn_handle, {fe::HeurMode_t::A});
  if (status.is_bad()) {
    built.error = status.get_message();
    return built;
  }
  auto sized = built.graph->get_workspace_size(built.workspace);
  if (sized.is_bad()) built.error = sized.get_message();
  return built;
}

using Pointers = std::unordered_map<int64_t, void*>;

// cuDNN's interface takes what it only reads without const.
void* readable(const void* pointer) { return const_cast<void*>(pointer); }

void execute(Cuda::Impl& impl, const char* operation, const BuiltGraph& built, Pointers& pointers) {
  if (!built.error.empty()) return impl.failed(operation, built.error);
  auto& workspace = impl.attention_graphs->workspace;
  if (static_cast<size_t>(built.workspace) > workspace.size()) {
    static_cast<void>(cudaStreamSynchronize(impl.stream));  // nobody uses the old one any more
    workspace.resize(static_cast<size_t>(built.workspace));
  }
  auto status = built.graph->execute(impl.dnn_handle, pointers, workspace.data());
  if (status.is_bad()) impl.failed(operation, status.get_message());
  impl.launched(operation);
}

AttentionGraphs& graphs_of(Cuda::Impl& impl) {
  if (!impl.attention_graphs) impl.attention_graphs = std::make_shared<AttentionGraphs>();
  return *impl.attention_graphs;
}

// The deterministic gradient writes a bf16 [B, H, T, T] for itself on Hopper: not all of B at once.
size_t sequences_at_once(AttentionShape s) {
  constexpr size_t kRoom = size_t{512} << 20;
  return std::max<size_t>(1, kRoom / (s.heads * s.context * s.context * sizeof(Bf16)));
}

void input_gradient_of(Cuda::Impl& impl, AttentionShape shape, const Bf16* dout, const Bf16* qkv,
                       const Bf16* out, const float* kept, Bf16* dqkv) {
  auto& backward = graphs_of(impl).backward;
  auto place = backward.find(key_of(shape));
  if (place == backward.end())
    place = backward.emplace(key_of(shape), build(impl, describe_backward(shape))).first;
  const Bf16* keys = qkv + shape.width();
  Bf16* dkeys = dqkv + shape.width();
  Pointers pointers{{kQ, readable(qkv)},
                    {kK, readable(keys)},
                    {kV, readable(keys + shape.kv_heads * shape.head_width)},
                    {kOut, readable(out)},
                    {kKept, readable(kept)},
                    {kDout, readable(dout)},
                    {kDq, dqkv},
                    {kDk, dkeys},
                    {kDv, dkeys + shape.kv_heads * shape.head_width}};
  execute(impl, "attention_input_gradient", place->second, pointers);
}

bool is_empty(AttentionShape s) { return s.tokens() == 0 || s.heads == 0 || s.head_width == 0; }

}  // namespace

size_t attention_kept(const Cuda&, AttentionShape shape) {
  return shape.sequences * shape.heads * shape.context;
}

void attention(Cuda& cuda, AttentionShape shape, const Bf16* qkv_NPA, float* kept, Bf16* out_NHA) {
  if (is_empty(shape)) return;
  Cuda::Impl& impl = cuda.impl();
  if (shape.context == 1) return attend_to_itself(impl, shape, qkv_NPA, kept, out_NHA);
  auto& forward = graphs_of(impl).forward;
  auto place = forward.find(key_of(shape));
  if (place == forward.end())
    place = forward.emplace(key_of(shape), build(impl, describe_forward(shape))).first;
  const Bf16* keys = qkv_NPA + shape.width();
  Pointers pointers{{kQ, readable(qkv_NPA)},
                    {kK, readable(keys)},
                    {kV, readable(keys + shape.kv_heads * shape.head_width)},
                    {kOut, out_NHA},
                    {kKept, kept}};
  execute(impl, "attention", place->second, pointers);
}

void attention_input_gradient(Cuda& cuda, AttentionShape shape, const Bf16* dout_NHA,
                              const Bf16* qkv_NPA, const Bf16* out_NHA, const float* kept,
                              Bf16* dqkv_NPA) {
  if (is_empty(shape)) return;
  Cuda::Impl& impl = cuda.impl();
  if (shape.context == 1) return attend_to_itself_input_gradient(impl, shape, dout_NHA, dqkv_NPA);
  const size_t at_once = sequences_at_once(shape);
  for (size_t b = 0; b < shape.sequences; b += at_once) {
    AttentionShape part = shape;
    part.sequences = std::min(at_once, shape.sequences - b);
    const size_t n = b * shape.context;
    input_gradient_of(impl, part, dout_NHA + n * shape.width(), qkv_NPA + n * shape.packed_width(),
                      out_NHA + n * shape.width(), kept + n * shape.heads,
                      dqkv_NPA + n * shape.packed_width());
  }
}

}  // namespace holdfast::train::kernels
