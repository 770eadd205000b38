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

  Impl(Device& on, const conf::ModelConfig& model, const StageLayers& part)
      : device(on),
        config(model),
        stage(part),
        layout(model, 1),
        rotary(on, model.context, model.width / model.heads, model.rope_theta) {
    CHECK(stage.layers > 0 && stage.end_layer() <= config.layers);
    kernels::use_one_blas_thread();
    idle.room->counts_LE.resize(size_t{stage.layers} * config.experts);
  }
  LayerIndex layer(size_t of_stage) const {
    return LayerIndex(stage.first_layer + static_cast<uint32_t>(of_stage));
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
  uint32_t* counts(StashImpl<B>& stash, size_t i) const {
    return stash.room->counts_LE.data() + i * config.experts;
  }
  double* router_losses(StashImpl<B>& stash, size_t i) const {
    return stash.room->losses.data() + 1 + 2 * i;
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
            weights.experts(layer), route(layer, context)};
  }
  DispatchRoute route(LayerIndex layer, const ModelContext& context) const {
    return {context.comm, context.payload, context.placement.layers[layer.value],
            context.reproducible,
            context.capacity ? context.capacity->of(layer) : std::span<const uint32_t>{},
            context.rooms};
  }

  // The input of a block, or of what comes after the last one: where the layer before writes to.
  typename B::template Room<V>& input_of(StashRoom<B>& room, size_t i) const {
    return i < room.blocks.size() ? room.blocks[i].attention.x_ND : room.head.x_ND;
  }
  // What came from a neighbouring stage.
  void take_over(size_t tokens, std::span<const V> from, typename B::template Room<V>& to) const {
    CHECK(from.size() == tokens * config.width, "{} elements for {} tokens", from.size(), tokens);
    to.resize(from.size());
    copy(device, from.data(), from.size(), to.data());
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
  Result<ForwardRound<B>> forward(const MicroBatch* batch, const Weights<B>& weights,
                                  const ModelContext& context, std::span<const V> x_ND,
                                  std::optional<double> gradient_scale);
  void take(const MicroBatch& batch, StashImpl<B>& stash) const;
  void embed(StashImpl<B>& stash, const Weights<B>& weights) const;
  Status forward_block(StashImpl<B>& stash, HostedImpl<B>& hosted, size_t i,
                       const Weights<B>& weights, const ModelContext& context);
  void forward_head(StashImpl<B>& stash, const Weights<B>& weights,
                    std::optional<double> gradient_scale) const;
  void head_input_gradient(StashImpl<B>& stash, const Weights<B>& weights);
  Status block_input_gradient(StashImpl<B>& stash, HostedImpl<B>& hosted, size_t i,
                              const Weights<B>& weights, const ModelContext& context);
  Status head_weight_gradient(const StashImpl<B>& stash, GradientSink<B>& gradients) const;
  Status block_weight_gradient(const StashImpl<B>& stash, size_t i,
                               GradientSink<B>& gradients) const;
  Status embedding_weight_gradient(const StashImpl<B>& stash, GradientSink<B>& gradients) const;

  Device& device;
  const conf::ModelConfig config;
  const StageLayers stage;
  const ParameterLayout layout;
  const typename B::Rotary rotary;
  using StashPool = RoomPool<StashRoom<B>>;
  using HostedPool = RoomPool<HostedRoom<B>>;
  const std::shared_ptr<StashPool> stashes = std::make_shared<StashPool>(stage.layers);
  const std::shared_ptr<HostedPool> hosted_rooms = std::make_shared<HostedPool>(stage.layers);
  StashImpl<B> idle{std::make_shared<StashPool>(stage.layers)};  // I without a micro-batch
  MoeScratch<B> scratch;
  typename B::template Room<V> residual_ND;  // the gradient that travels back through the blocks
  typename B::template Room<V> dheads_ND;
};

// The micro-batch, checked, to where the backend computes.
template <class B>
void MoeModel<B>::Impl::take(const MicroBatch& batch, StashImpl<B>& stash) const {
  const size_t n = size_t{batch.sequences} * batch.context;
  CHECK((!stage.embeds || n == batch.tokens.size()) &&
            (!stage.has_head || n == batch.targets.size()) && batch.context <= config.context,
        "{} sequences of {}: {} tokens, {} targets", batch.sequences, batch.context,
        batch.tokens.size(), batch.targets.size());
  stash.sequences = batch.sequences;
  stash.context = batch.context;
  StashRoom<B>& room = *stash.room;
  room.host_tokens_2N.resize(2 * n);
  const auto put = [&](const std::vector<int32_t>& from, int32_t* host, auto& to) {
    for (size_t i = 0; i < n; ++i) {
      CHECK(from[i] >= 0 && static_cast<uint32_t>(from[i]) < config.vocabulary, "token {}", from[i]);
      host[i] = from[i];
    }
    to.resize(n);
    upload(device, host, n, to.data());
  };
  if (stage.embeds) put(batch.tokens, room.host_tokens_2N.data(), room.tokens_N);
  if (stage.has_head) put(batch.targets, room.host_tokens_2N.data() + n, room.targets_N);
}

template <class B>
void MoeModel<B>::Impl::embed(StashImpl<B>& stash, const Weights<B>& weights) const {
  auto& x = input_of(*stash.room, 0);
  x.resize(stash.tokens() * config.width);
  embedding(device, rows(stash.tokens()), stash.room->tokens_N.data(),
            weights.group(layout.embedding()), x.data());
}

template <class B>
Status MoeModel<B>::Impl::forward_block(StashImpl<B>& stash, HostedImpl<B>& hosted, size_t i,
                                        const Weights<B>& weights, const ModelContext& context) {
  const size_t elements = stash.tokens() * config.width;
  BlockStash<B>& block = stash.room->blocks[i];
  block.moe.x_ND.resize(elements);
  attention_forward<B>(device, attention_sizes(stash), rotary, attention(layer(i), weights),
                       block.attention, block.moe.x_ND.data());
  auto& y = input_of(*stash.room, i + 1);
  y.resize(elements);
  return moe_forward<B>(device, moe_sizes(stash.tokens(), 1.0), moe(layer(i), weights, context),
                        {router_losses(stash, i), counts(stash, i)}, block.moe,
                        hosted.room->blocks[i], scratch, y.data());
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
Result<ForwardRound<B>> MoeModel<B>::Impl::forward(const MicroBatch* batch,
                                                   const Weights<B>& weights,
                                                   const ModelContext& context,
                                                   std::span<const V> x_ND,
                                                   std::optional<double> gradient_scale) {
  auto stash = std::make_unique<StashImpl<B>>(stashes);
  auto hosted = std::make_unique<HostedImpl<B>>(hosted_rooms);
  StashRoom<B>& room = *stash->room;
  room.losses.resize(1 + 2 * size_t{stage.layers});
  room.host_losses.resize(room.losses.size());
  room.counts_LE.resize(size_t{stage.layers} * config.experts);
  room.host_counts_LE.resize(room.counts_LE.size());
  zero(device, room.losses.data(), room.losses.size());
  if (batch != nullptr) take(*batch, *stash);
  check_context(context, stash->tokens());
  if (stage.embeds)
    embed(*stash, weights);
  else
    take_over(stash->tokens(), x_ND, input_of(room, 0));
  for (size_t i = 0; i < stage.layers; ++i)
    RETURN_IF_ERROR(forward_block(*stash, *hosted, i, weights, context));
  if (stage.has_head)
    forward_head(*stash, weights, gradient_scale);
  else
    stash->handed_on = {room.head.x_ND.data(), room.head.x_ND.size()};
  download(device, room.losses.data(), room.losses.size(), room.host_losses.data());
  download(device, room.counts_LE.data(), room.counts_LE.size(), room.host_counts_LE.data());
  RETURN_IF_ERROR(device.check());
  return ForwardRound<B>{std::move(stash), std::move(hosted)};
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
Status MoeModel<B>::Impl::block_input_gradient(StashImpl<B>& stash, HostedImpl<B>& hosted,
                                               size_t i, const Weights<B>& weights,
                                               const ModelContext& context) {
  BlockStash<B>& block = stash.room->blocks[i];
  RETURN_IF_ERROR(moe_input_gradient<B>(device, moe_sizes(stash.tokens(), context.loss_scale),
                                        moe(layer(i), weights, context), counts(stash, i),
                                        block.moe, hosted.room->blocks[i], scratch,
                                        residual_ND.data()));
  attention_input_gradient<B>(device, attention_sizes(stash), rotary, attention(layer(i), weights),
                              block.attention, dheads_ND, residual_ND.data());
  return device.check();
}

template <class B>
Status MoeModel<B>::Impl::head_weight_gradient(const StashImpl<B>& stash,
                                               GradientSink<B>& gradients) const {
  const size_t n = stash.tokens();
  const HeadStash<B>& s = stash.room->head;
  const auto head = gradients.begin(layout.head());
  const auto dhead = head_tensors(layout.group(layout.head()), head.at);
  rms_norm_weight_gradient(device, rows(n), s.dnormed_ND.data(), s.x_ND.data(),
                           s.inverse_rms_N.data(), head.into, dhead.norm);
  linear_weight_gradient(device, output(n), s.logits_NV.data(), s.normed_ND.data(), head.into,
                         dhead.output);
  return gradients.commit(layout.head());
}

template <class B>
Status MoeModel<B>::Impl::block_weight_gradient(const StashImpl<B>& stash, size_t i,
                                                GradientSink<B>& gradients) const {
  const BlockStash<B>& block = stash.room->blocks[i];
  const GroupIndex router = layout.router(layer(i));
  router_weight_gradient<B>(device, moe_sizes(stash.tokens(), 1.0), block.moe,
                            layout.group(router), gradients.begin(router));
  RETURN_IF_ERROR(gradients.commit(router));
  const GroupIndex attention = layout.attention(layer(i));
  attention_weight_gradient<B>(device, attention_sizes(stash), block.attention,
                               layout.group(attention), gradients.begin(attention));
  return gradients.commit(attention);
}

template <class B>
Status MoeModel<B>::Impl::embedding_weight_gradient(const StashImpl<B>& stash,
                                                    GradientSink<B>& gradients) const {
  const auto table = gradients.begin(layout.embedding());
  kernels::embedding_weight_gradient(device, rows(stash.tokens()), config.vocabulary,
                                     stash.room->tokens_N.data(), stash.room->dembedded_ND.data(),
                                     table.into, table.at);
  return gradients.commit(layout.embedding());
}

template <class B>
MoeModel<B>::MoeModel(typename B::Device& device, const conf::ModelConfig& model)
    : MoeModel(device, model, whole_model(model)) {}
template <class B>
MoeModel<B>::MoeModel(typename B::Device& device, const conf::ModelConfig& model,
                      const StageLayers& stage)
    : impl_(std::make_unique<Impl>(device, model, stage)) {}
template <class B>
MoeModel<B>::~MoeModel() = default;
template <class B>
const StageLayers& MoeModel<B>::stage() const {
  return impl_->stage;
}

template <class B>
Result<ForwardRound<B>> MoeModel<B>::forward(const MicroBatch* batch, const Weights<B>& weights,
                                             const ModelContext& context,
                                             std::span<const V> x_ND) {
  return impl_->forward(batch, weights, context, x_ND, context.loss_scale);
}

template <class B>
Result<std::unique_ptr<Stash<B>>> MoeModel<B>::evaluate(const MicroBatch* batch,
                                                        const Weights<B>& weights,
                                                        const ModelContext& context,
                                                        std::span<const V> x_ND) {
  ASSIGN_OR_RETURN(auto round, impl_->forward(batch, weights, context, x_ND, std::nullopt));
  RETURN_IF_ERROR(impl_->device.finish());
  return std::move(round.stash);
}

template <class B>
Result<std::unique_ptr<Hosted<B>>> MoeModel<B>::assemble(std::span<const Hosted<B>* const> from,
                                                         const ModelContext& context) {
  auto hosted = std::make_unique<HostedImpl<B>>(impl_->hosted_rooms);
  for (size_t i = 0; i < impl_->stage.layers; ++i) {
    std::vector<const MoeHosted<B>*> blocks;
    for (const Hosted<B>* one : from) {
      const auto* impl = static_cast<const HostedImpl<B>*>(one);
      CHECK(impl == nullptr || !impl->input_gradient_done, "I follows F only once");
      blocks.push_back(impl == nullptr ? nullptr : &impl->room->blocks[i]);
    }
    RETURN_IF_ERROR(moe_assemble<B>(impl_->device, impl_->moe_sizes(0, 1.0),
                                    impl_->route(impl_->layer(i), context), blocks,
                                    impl_->scratch, hosted->room->blocks[i]));
  }
  return hosted;
}

template <class B>
Status MoeModel<B>::input_gradient(Stash<B>* stash, Hosted<B>& hosted, const Weights<B>& weights,
                                   const ModelContext& context, std::span<const V> dy_ND) {
  auto& s = stash == nullptr ? impl_->idle : static_cast<StashImpl<B>&>(*stash);
  auto& h = static_cast<HostedImpl<B>&>(hosted);
  impl_->check_context(context, s.tokens());
  CHECK(!s.input_gradient_done && !h.input_gradient_done, "a stash has one input gradient");
  if (impl_->stage.has_head)
    impl_->head_input_gradient(s, weights);
  else
    impl_->take_over(s.tokens(), dy_ND, impl_->residual_ND);
  for (size_t i = impl_->stage.layers; i-- > 0;)
    RETURN_IF_ERROR(impl_->block_input_gradient(s, h, i, weights, context));
  if (impl_->stage.embeds) {
    s.room->dembedded_ND.resize(impl_->residual_ND.size());
    copy(impl_->device, impl_->residual_ND.data(), impl_->residual_ND.size(),
         s.room->dembedded_ND.data());
  } else {
    s.given_back = {impl_->residual_ND.data(), impl_->residual_ND.size()};
  }
  s.input_gradient_done = stash != nullptr;
  h.input_gradient_done = true;
  return impl_->device.check();
}

template <class B>
Status MoeModel<B>::weight_gradient(Stash<B>& stash, GradientSink<B>& gradients) {
  auto& s = static_cast<StashImpl<B>&>(stash);
  CHECK(s.input_gradient_done, "W needs what I keeps");
  if (s.tokens() == 0) return {};
  if (impl_->stage.has_head) RETURN_IF_ERROR(impl_->head_weight_gradient(s, gradients));
  for (size_t i = impl_->stage.layers; i-- > 0;)
    RETURN_IF_ERROR(impl_->block_weight_gradient(s, i, gradients));
  if (impl_->stage.embeds) RETURN_IF_ERROR(impl_->embedding_weight_gradient(s, gradients));
  return impl_->device.check();
}

template <class B>
Status MoeModel<B>::expert_weight_gradient(Hosted<B>& hosted, GradientSink<B>& gradients) {
  auto& h = static_cast<HostedImpl<B>&>(hosted);
  CHECK(h.input_gradient_done, "W needs what I keeps");
  for (size_t i = impl_->stage.layers; i-- > 0;)
    RETURN_IF_ERROR(moe_expert_weight_gradient<B>(impl_->device, impl_->moe_sizes(0, 1.0),
                                                  h.room->blocks[i],
                                                  gradients.experts(impl_->layer(i))));
  return {};
}

#define INSTANTIATE(B) template class MoeModel<B>;
HOLDFAST_FOR_EACH_BACKEND(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
