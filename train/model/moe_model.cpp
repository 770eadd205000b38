#include "train/model/moe_model.h"

#include <optional>

#include "base/check.h"
#include "train/kernels/backends.h"
#include "train/model/stash_impl.h"

namespace holdfast::train {

template <class B>
struct MoeModel<B>::Impl {
  using V = typename B::Value;
  using Device = typename B::Device;

  Impl(Device& on, const conf::ModelConfig& model)
      : device(on),
        config(model),
        layout(model, 1),
        rotary(on, model.context, model.width / model.heads, model.rope_theta) {
    kernels::use_one_blas_thread();
  }

  AttentionSizes attention_sizes(const StashImpl<B>& stash) const {
    return {{stash.sequences, stash.context, config.heads, config.kv_heads,
             config.width / config.heads},
            config.norm_epsilon};
  }
  MoeSizes moe_sizes(size_t tokens, double loss_scale) const {
    return {{tokens, config.experts, config.top_k},
            {config.width, config.expert_width},
            config.norm_epsilon,
            {config.load_balance_weight * loss_scale, config.z_loss_weight * loss_scale}};
  }
  kernels::RowShape rows(size_t tokens) const { return {tokens, config.width}; }
  kernels::LinearShape output(size_t tokens) const {
    return {tokens, config.width, config.vocabulary};
  }
  uint32_t* counts(StashImpl<B>& stash, size_t layer) const {
    return stash.room->counts_LE.data() + layer * config.experts;
  }

  AttentionTensors<const V*> attention(LayerIndex layer, const Weights<B>& weights) const {
    const GroupSpec& group = layout.group(layout.attention(layer));
    return attention_tensors(group, weights.group(group.index));
  }
  HeadTensors<const V*> head(const Weights<B>& weights) const {
    return head_tensors(layout.group(layout.head()), weights.group(layout.head()));
  }
  MoeLayer<B> moe(LayerIndex layer, const Weights<B>& weights, const ModelContext& context) const {
    const GroupSpec& group = layout.group(layout.router(layer));
    return {router_tensors(group, weights.group(group.index)),
            weights.experts(layer),
            {context.comm, context.payload, context.placement.layers[layer.value],
             context.reproducible,
             context.capacity ? context.capacity->of(layer) : std::span<const uint32_t>{},
             context.rooms}};
  }

  // The input of a block, or of the head after the last one: where the layer before writes to.
  typename B::template Room<V>& input_of(StashRoom<B>& room, size_t layer) const {
    return layer < room.blocks.size() ? room.blocks[layer].attention.x_ND : room.head.x_ND;
  }

  void check_context(const ModelContext& context, size_t tokens) const {
    if (context.capacity != nullptr)
      CHECK(context.capacity->most_LE.size() == config.layers &&
                (tokens == 0 || tokens == context.capacity->tokens),
            "a capacity for {} tokens, a micro-batch of {}", context.capacity->tokens, tokens);
    CHECK(context.placement.layers.size() == config.layers, "{} layers placed, {} in the model",
          context.placement.layers.size(), config.layers);
    for (const LayerPlacement& layer : context.placement.layers)
      CHECK(layer.lanes() == context.comm.size(), "{} lanes placed, {} ranks", layer.lanes(),
            context.comm.size());
  }

  // `gradient_scale`: the loss's gradient is wanted, too.
  Result<std::unique_ptr<StashImpl<B>>> forward(const MicroBatch* batch, const Weights<B>& weights,
                                                const ModelContext& context,
                                                std::optional<double> gradient_scale);
  void take(const MicroBatch& batch, StashImpl<B>& stash) const;
  void embed(StashImpl<B>& stash, const Weights<B>& weights) const;
  Status forward_block(StashImpl<B>& stash, LayerIndex layer, const Weights<B>& weights,
                       const ModelContext& context);
  void forward_head(StashImpl<B>& stash, const Weights<B>& weights,
                    std::optional<double> gradient_scale) const;
  void head_input_gradient(StashImpl<B>& stash, const Weights<B>& weights);
  Status block_input_gradient(StashImpl<B>& stash, LayerIndex layer, const Weights<B>& weights,
                              const ModelContext& context);
  Status dense_weight_gradient(const StashImpl<B>& stash, GradientSink<B>& gradients) const;

  Device& device;
  const conf::ModelConfig config;
  const ParameterLayout layout;
  const typename B::Rotary rotary;
  const std::shared_ptr<RoomPool<B>> pool = std::make_shared<RoomPool<B>>();
  MoeScratch<B> scratch;
  typename B::template Room<V> residual_ND;  // the gradient that travels back through the blocks
  typename B::template Room<V> dheads_ND;
};

// The micro-batch, checked, to where the backend computes.
template <class B>
void MoeModel<B>::Impl::take(const MicroBatch& batch, StashImpl<B>& stash) const {
  const size_t n = batch.tokens.size();
  CHECK(n == size_t{batch.sequences} * batch.context && n == batch.targets.size() &&
            batch.context <= config.context,
        "{} sequences of {}: {} tokens, {} targets", batch.sequences, batch.context, n,
        batch.targets.size());
  stash.sequences = batch.sequences;
  stash.context = batch.context;
  StashRoom<B>& room = *stash.room;
  room.host_tokens_2N.resize(2 * n);
  room.tokens_N.resize(n);
  room.targets_N.resize(n);
  int32_t* host = room.host_tokens_2N.data();
  for (const std::vector<int32_t>* from : {&batch.tokens, &batch.targets})
    for (const int32_t token : *from) {
      CHECK(token >= 0 && static_cast<uint32_t>(token) < config.vocabulary, "token {}", token);
      *host++ = token;
    }
  upload(device, room.host_tokens_2N.data(), n, room.tokens_N.data());
  upload(device, room.host_tokens_2N.data() + n, n, room.targets_N.data());
}

template <class B>
void MoeModel<B>::Impl::embed(StashImpl<B>& stash, const Weights<B>& weights) const {
  auto& x = input_of(*stash.room, 0);
  x.resize(stash.tokens() * config.width);
  embedding(device, rows(stash.tokens()), stash.room->tokens_N.data(),
            weights.group(layout.embedding()), x.data());
}

template <class B>
Status MoeModel<B>::Impl::forward_block(StashImpl<B>& stash, LayerIndex layer,
                                        const Weights<B>& weights, const ModelContext& context) {
  const size_t elements = stash.tokens() * config.width;
  BlockStash<B>& block = stash.room->blocks[layer.value];
  block.moe.x_ND.resize(elements);
  attention_forward<B>(device, attention_sizes(stash), rotary, attention(layer, weights),
                       block.attention, block.moe.x_ND.data());
  auto& y = input_of(*stash.room, layer.value + 1);
  y.resize(elements);
  return moe_forward<B>(device, moe_sizes(stash.tokens(), 1.0), moe(layer, weights, context),
                        {stash.room->losses.data() + 1, counts(stash, layer.value)}, block.moe,
                        scratch, y.data());
}

template <class B>
void MoeModel<B>::Impl::forward_head(StashImpl<B>& stash, const Weights<B>& weights,
                                     std::optional<double> gradient_scale) const {
  const size_t n = stash.tokens();
  HeadStash<B>& s = stash.room->head;
  s.inverse_rms_N.resize(n);
  s.losses_N.resize(n);
  s.normed_ND.resize(n * config.width);
  s.logits_NV.resize(n * config.vocabulary);
  const HeadTensors<const V*> w = head(weights);
  const V* x = s.x_ND.data();
  rms_norm(device, rows(n), x, w.norm, config.norm_epsilon, s.inverse_rms_N.data(),
           s.normed_ND.data());
  linear(device, output(n), s.normed_ND.data(), w.output, s.logits_NV.data());
  cross_entropy(device, {n, config.vocabulary}, stash.room->targets_N.data(), gradient_scale,
                s.logits_NV.data(), s.losses_N.data(), stash.room->losses.data());
}

template <class B>
Result<std::unique_ptr<StashImpl<B>>> MoeModel<B>::Impl::forward(
    const MicroBatch* batch, const Weights<B>& weights, const ModelContext& context,
    std::optional<double> gradient_scale) {
  check_context(context, batch == nullptr ? 0 : batch->tokens.size());
  auto stash = std::make_unique<StashImpl<B>>(pool, config.layers);
  StashRoom<B>& room = *stash->room;
  room.losses.resize(3);
  room.host_losses.resize(3);
  room.counts_LE.resize(size_t{config.layers} * config.experts);
  room.host_counts_LE.resize(room.counts_LE.size());
  zero(device, room.losses.data(), room.losses.size());
  if (batch != nullptr) take(*batch, *stash);
  embed(*stash, weights);
  for (uint32_t layer = 0; layer < config.layers; ++layer)
    RETURN_IF_ERROR(forward_block(*stash, LayerIndex(layer), weights, context));
  forward_head(*stash, weights, gradient_scale);
  download(device, room.losses.data(), room.losses.size(), room.host_losses.data());
  download(device, room.counts_LE.data(), room.counts_LE.size(), room.host_counts_LE.data());
  RETURN_IF_ERROR(device.check());
  return stash;
}

template <class B>
void MoeModel<B>::Impl::head_input_gradient(StashImpl<B>& stash, const Weights<B>& weights) {
  const size_t n = stash.tokens();
  HeadStash<B>& s = stash.room->head;
  s.dnormed_ND.resize(n * config.width);
  residual_ND.resize(n * config.width);
  zero(device, residual_ND.data(), residual_ND.size());
  const HeadTensors<const V*> w = head(weights);
  const V* const nothing = nullptr;
  linear_input_gradient(device, output(n), s.logits_NV.data(), w.output, nothing,
                        s.dnormed_ND.data());
  rms_norm_input_gradient(device, rows(n), s.dnormed_ND.data(), s.x_ND.data(), w.norm,
                          s.inverse_rms_N.data(), residual_ND.data());
}

template <class B>
Status MoeModel<B>::Impl::block_input_gradient(StashImpl<B>& stash, LayerIndex layer,
                                               const Weights<B>& weights,
                                               const ModelContext& context) {
  BlockStash<B>& block = stash.room->blocks[layer.value];
  RETURN_IF_ERROR(moe_input_gradient<B>(device, moe_sizes(stash.tokens(), context.loss_scale),
                                        moe(layer, weights, context), counts(stash, layer.value),
                                        block.moe, scratch, residual_ND.data()));
  attention_input_gradient<B>(device, attention_sizes(stash), rotary, attention(layer, weights),
                              block.attention, dheads_ND, residual_ND.data());
  return device.check();
}

template <class B>
Status MoeModel<B>::Impl::dense_weight_gradient(const StashImpl<B>& stash,
                                                GradientSink<B>& gradients) const {
  const size_t n = stash.tokens();
  const HeadStash<B>& s = stash.room->head;
  const auto head = gradients.begin(layout.head());
  const auto dhead = head_tensors(layout.group(layout.head()), head.at);
  rms_norm_weight_gradient(device, rows(n), s.dnormed_ND.data(), s.x_ND.data(),
                           s.inverse_rms_N.data(), head.into, dhead.norm);
  linear_weight_gradient(device, output(n), s.logits_NV.data(), s.normed_ND.data(), head.into,
                         dhead.output);
  RETURN_IF_ERROR(gradients.commit(layout.head()));
  for (uint32_t i = config.layers; i-- > 0;) {
    const BlockStash<B>& block = stash.room->blocks[i];
    const GroupIndex router = layout.router(LayerIndex(i));
    router_weight_gradient<B>(device, moe_sizes(n, 1.0), block.moe, layout.group(router),
                              gradients.begin(router));
    RETURN_IF_ERROR(gradients.commit(router));
    const GroupIndex attention = layout.attention(LayerIndex(i));
    attention_weight_gradient<B>(device, attention_sizes(stash), block.attention,
                                 layout.group(attention), gradients.begin(attention));
    RETURN_IF_ERROR(gradients.commit(attention));
  }
  const auto table = gradients.begin(layout.embedding());
  embedding_weight_gradient(device, rows(n), config.vocabulary, stash.room->tokens_N.data(),
                            stash.room->dembedded_ND.data(), table.into, table.at);
  RETURN_IF_ERROR(gradients.commit(layout.embedding()));
  return device.check();
}

template <class B>
MoeModel<B>::MoeModel(typename B::Device& device, const conf::ModelConfig& model)
    : impl_(std::make_unique<Impl>(device, model)) {}
template <class B>
MoeModel<B>::~MoeModel() = default;

template <class B>
Result<std::unique_ptr<Stash<B>>> MoeModel<B>::forward(const MicroBatch* batch,
                                                       const Weights<B>& weights,
                                                       const ModelContext& context) {
  return impl_->forward(batch, weights, context, context.loss_scale);
}

template <class B>
Result<MicroBatchLoss> MoeModel<B>::evaluate(const MicroBatch* batch, const Weights<B>& weights,
                                             const ModelContext& context) {
  ASSIGN_OR_RETURN(const auto stash, impl_->forward(batch, weights, context, std::nullopt));
  RETURN_IF_ERROR(impl_->device.finish());
  return stash->loss();
}

template <class B>
Status MoeModel<B>::input_gradient(Stash<B>& stash, const Weights<B>& weights,
                                   const ModelContext& context) {
  auto& s = static_cast<StashImpl<B>&>(stash);
  impl_->check_context(context, s.tokens());
  CHECK(!s.input_gradient_done, "a stash has one input gradient");
  impl_->head_input_gradient(s, weights);
  for (uint32_t layer = impl_->config.layers; layer-- > 0;)
    RETURN_IF_ERROR(impl_->block_input_gradient(s, LayerIndex(layer), weights, context));
  s.room->dembedded_ND.resize(impl_->residual_ND.size());
  copy(impl_->device, impl_->residual_ND.data(), impl_->residual_ND.size(),
       s.room->dembedded_ND.data());
  s.input_gradient_done = true;
  return {};
}

template <class B>
Status MoeModel<B>::weight_gradient(Stash<B>& stash, GradientSink<B>& gradients) {
  auto& s = static_cast<StashImpl<B>&>(stash);
  CHECK(s.input_gradient_done, "W needs what I keeps");
  if (s.tokens() == 0) return {};
  return impl_->dense_weight_gradient(s, gradients);
}

template <class B>
Status MoeModel<B>::expert_weight_gradient(Stash<B>& stash, GradientSink<B>& gradients) {
  auto& s = static_cast<StashImpl<B>&>(stash);
  CHECK(s.input_gradient_done, "W needs what I keeps");
  const MoeSizes sizes = impl_->moe_sizes(s.tokens(), 1.0);
  for (uint32_t layer = impl_->config.layers; layer-- > 0;)
    RETURN_IF_ERROR(moe_expert_weight_gradient<B>(impl_->device, sizes,
                                                  s.room->blocks[layer].moe,
                                                  gradients.experts(LayerIndex(layer))));
  return {};
}

#define INSTANTIATE(B) template class MoeModel<B>;
HOLDFAST_FOR_EACH_BACKEND(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
