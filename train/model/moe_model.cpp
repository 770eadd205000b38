#include "train/model/moe_model.h"

#include "base/check.h"
#include "train/kernels/gemm.h"
#include "train/model/stash_impl.h"

namespace holdfast::train {
template <class T>
struct MoeModel<T>::Impl {
  explicit Impl(const conf::ModelConfig& model)
      : config(model),
        layout(model, 1),
        rotary(model.context, model.width / model.heads, model.rope_theta) {
    kernels::use_one_blas_thread();
  }

  AttentionSizes attention_sizes(const MicroBatch& batch) const {
    return {{batch.sequences, batch.context, config.heads, config.kv_heads,
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
  kernels::RowShape vocabulary_rows(size_t tokens) const { return {tokens, config.vocabulary}; }
  kernels::LinearShape output(size_t tokens) const {
    return {tokens, config.width, config.vocabulary};
  }
  ExpertGroup expert_groups(LayerIndex layer) const {
    return [this, layer](ExpertIndex e) -> const GroupSpec& {
      return layout.group(layout.expert(layer, e));
    };
  }

  AttentionTensors<const T*> attention(LayerIndex layer, const Weights<T>& weights) const {
    const GroupSpec& group = layout.group(layout.attention(layer));
    return attention_tensors(group, weights.group(group.index));
  }
  HeadTensors<const T*> head(const Weights<T>& weights) const {
    return head_tensors(layout.group(layout.head()), weights.group(layout.head()));
  }
  MoeLayer<T> moe(LayerIndex layer, const Weights<T>& weights, const ModelContext& context) const {
    const GroupSpec& group = layout.group(layout.router(layer));
    return {router_tensors(group, weights.group(group.index)),
            weights,
            expert_groups(layer),
            context.placement.layers[layer.value],
            context.comm,
            context.reproducible};
  }

  // The input of a block, or of the head after the last one: where the layer before writes to.
  Buffer<T>& input_of(StashRoom<T>& room, size_t layer) const {
    return layer < room.blocks.size() ? room.blocks[layer].attention.x_ND : room.head.x_ND;
  }

  void check_context(const ModelContext& context) const {
    CHECK(context.placement.layers.size() == config.layers, "{} layers placed, {} in the model",
          context.placement.layers.size(), config.layers);
    for (const LayerPlacement& layer : context.placement.layers)
      CHECK(layer.lanes() == context.comm.size(), "{} lanes placed, {} ranks", layer.lanes(),
            context.comm.size());
  }

  Result<std::unique_ptr<StashImpl<T>>> forward(const MicroBatch* batch, const Weights<T>& weights,
                                                const ModelContext& context);
  void embed(StashImpl<T>& stash, const Weights<T>& weights) const;
  Status forward_block(StashImpl<T>& stash, LayerIndex layer, const Weights<T>& weights,
                       const ModelContext& context);
  void forward_head(StashImpl<T>& stash, const Weights<T>& weights) const;
  void head_input_gradient(StashImpl<T>& stash, const Weights<T>& weights, double loss_scale);
  Status block_input_gradient(StashImpl<T>& stash, LayerIndex layer, const Weights<T>& weights,
                              const ModelContext& context);
  Status dense_weight_gradient(const StashImpl<T>& stash, GradientSink<T>& gradients) const;

  const conf::ModelConfig config;
  const ParameterLayout layout;
  const kernels::RotaryTable<T> rotary;
  const std::shared_ptr<RoomPool<T>> pool = std::make_shared<RoomPool<T>>();
  MoeScratch<T> scratch;
  Buffer<T> residual_ND;  // the gradient that travels back through the blocks
  Buffer<T> dheads_ND;
};

template <class T>
void MoeModel<T>::Impl::embed(StashImpl<T>& stash, const Weights<T>& weights) const {
  for (const int32_t token : stash.batch.tokens)
    CHECK(token >= 0 && static_cast<uint32_t>(token) < config.vocabulary, "token {}", token);
  for (const int32_t target : stash.batch.targets)
    CHECK(target >= 0 && static_cast<uint32_t>(target) < config.vocabulary, "target {}", target);
  Buffer<T>& x = input_of(*stash.room, 0);
  x.resize(stash.tokens() * config.width);
  kernels::embedding<T>(rows(stash.tokens()), stash.batch.tokens.data(),
                        weights.group(layout.embedding()), x.data());
}

template <class T>
Status MoeModel<T>::Impl::forward_block(StashImpl<T>& stash, LayerIndex layer,
                                        const Weights<T>& weights, const ModelContext& context) {
  const size_t elements = stash.tokens() * config.width;
  BlockStash<T>& block = stash.room->blocks[layer.value];
  block.moe.x_ND.resize(elements);
  attention_forward(attention_sizes(stash.batch), rotary, attention(layer, weights),
                    block.attention, block.moe.x_ND.data());
  Buffer<T>& y = input_of(*stash.room, layer.value + 1);
  y.resize(elements);
  ASSIGN_OR_RETURN(const kernels::RouterLosses losses,
                   moe_forward(moe_sizes(stash.tokens(), 1.0), moe(layer, weights, context),
                               block.moe, scratch, y.data()));
  stash.losses.load_balance += losses.load_balance;
  stash.losses.z_loss += losses.z;
  stash.losses.popularity.insert(stash.losses.popularity.end(), block.moe.counts_E.begin(),
                                 block.moe.counts_E.end());
  return {};
}

template <class T>
void MoeModel<T>::Impl::forward_head(StashImpl<T>& stash, const Weights<T>& weights) const {
  const size_t n = stash.tokens();
  HeadStash<T>& s = stash.room->head;
  s.inverse_rms_N.resize(n);
  s.normed_ND.resize(n * config.width);
  s.probabilities_NV.resize(n * config.vocabulary);
  const HeadTensors<const T*> w = head(weights);
  kernels::rms_norm<T>(rows(n), s.x_ND.data(), w.norm, config.norm_epsilon, s.inverse_rms_N.data(),
                       s.normed_ND.data());
  kernels::linear<T>(output(n), s.normed_ND.data(), w.output, kernels::Into::kOverwrite,
                     s.probabilities_NV.data());
  stash.losses.cross_entropy = kernels::cross_entropy<T>(
      vocabulary_rows(n), stash.batch.targets.data(), s.probabilities_NV.data());
}

template <class T>
Result<std::unique_ptr<StashImpl<T>>> MoeModel<T>::Impl::forward(const MicroBatch* batch,
                                                                 const Weights<T>& weights,
                                                                 const ModelContext& context) {
  check_context(context);
  auto stash = std::make_unique<StashImpl<T>>(pool, config.layers);
  if (batch != nullptr) stash->batch = *batch;
  const size_t tokens = stash->tokens();
  CHECK(tokens == size_t{stash->batch.sequences} * stash->batch.context &&
            tokens == stash->batch.targets.size() && stash->batch.context <= config.context,
        "{} sequences of {}: {} tokens, {} targets", stash->batch.sequences, stash->batch.context,
        tokens, stash->batch.targets.size());
  embed(*stash, weights);
  for (uint32_t layer = 0; layer < config.layers; ++layer)
    RETURN_IF_ERROR(forward_block(*stash, LayerIndex(layer), weights, context));
  forward_head(*stash, weights);
  return stash;
}

template <class T>
void MoeModel<T>::Impl::head_input_gradient(StashImpl<T>& stash, const Weights<T>& weights,
                                            double loss_scale) {
  const size_t n = stash.tokens();
  HeadStash<T>& s = stash.room->head;
  s.dnormed_ND.resize(n * config.width);
  residual_ND.resize(n * config.width);
  residual_ND.zero();
  const HeadTensors<const T*> w = head(weights);
  kernels::cross_entropy_input_gradient<T>(vocabulary_rows(n), stash.batch.targets.data(),
                                           loss_scale, s.probabilities_NV.data());
  kernels::linear_input_gradient<T>(output(n), s.probabilities_NV.data(), w.output,
                                    kernels::Into::kOverwrite, s.dnormed_ND.data());
  kernels::rms_norm_input_gradient<T>(rows(n), s.dnormed_ND.data(), s.x_ND.data(), w.norm,
                                      s.inverse_rms_N.data(), residual_ND.data());
}

template <class T>
Status MoeModel<T>::Impl::block_input_gradient(StashImpl<T>& stash, LayerIndex layer,
                                               const Weights<T>& weights,
                                               const ModelContext& context) {
  BlockStash<T>& block = stash.room->blocks[layer.value];
  RETURN_IF_ERROR(moe_input_gradient(moe_sizes(stash.tokens(), context.loss_scale),
                                     moe(layer, weights, context), block.moe, scratch,
                                     residual_ND.data()));
  attention_input_gradient(attention_sizes(stash.batch), rotary, attention(layer, weights),
                           block.attention, dheads_ND, residual_ND.data());
  return {};
}

template <class T>
Status MoeModel<T>::Impl::dense_weight_gradient(const StashImpl<T>& stash,
                                                GradientSink<T>& gradients) const {
  const size_t n = stash.tokens();
  const HeadStash<T>& s = stash.room->head;
  const auto dhead = head_tensors(layout.group(layout.head()), gradients.begin(layout.head()));
  kernels::rms_norm_weight_gradient<T>(rows(n), s.dnormed_ND.data(), s.x_ND.data(),
                                       s.inverse_rms_N.data(), dhead.norm);
  kernels::linear_weight_gradient<T>(output(n), s.probabilities_NV.data(), s.normed_ND.data(),
                                     dhead.output);
  RETURN_IF_ERROR(gradients.commit(layout.head()));
  for (uint32_t i = config.layers; i-- > 0;) {
    const BlockStash<T>& block = stash.room->blocks[i];
    const GroupIndex router = layout.router(LayerIndex(i));
    router_weight_gradient(moe_sizes(n, 1.0), block.moe,
                           router_tensors(layout.group(router), gradients.begin(router)));
    RETURN_IF_ERROR(gradients.commit(router));
    const GroupIndex attention = layout.attention(LayerIndex(i));
    attention_weight_gradient(
        attention_sizes(stash.batch), block.attention,
        attention_tensors(layout.group(attention), gradients.begin(attention)));
    RETURN_IF_ERROR(gradients.commit(attention));
  }
  kernels::embedding_weight_gradient<T>(rows(n), stash.batch.tokens.data(),
                                        stash.room->dembedded_ND.data(),
                                        gradients.begin(layout.embedding()));
  return gradients.commit(layout.embedding());
}

template <class T>
MoeModel<T>::MoeModel(const conf::ModelConfig& model) : impl_(std::make_unique<Impl>(model)) {}
template <class T>
MoeModel<T>::~MoeModel() = default;

template <class T>
Result<std::unique_ptr<Stash<T>>> MoeModel<T>::forward(const MicroBatch* batch,
                                                       const Weights<T>& weights,
                                                       const ModelContext& context) {
  return impl_->forward(batch, weights, context);
}

template <class T>
Result<MicroBatchLoss> MoeModel<T>::evaluate(const MicroBatch* batch, const Weights<T>& weights,
                                             const ModelContext& context) {
  ASSIGN_OR_RETURN(const auto stash, impl_->forward(batch, weights, context));
  return stash->losses;
}

template <class T>
Status MoeModel<T>::input_gradient(Stash<T>& stash, const Weights<T>& weights,
                                   const ModelContext& context) {
  auto& s = static_cast<StashImpl<T>&>(stash);
  impl_->check_context(context);
  CHECK(!s.input_gradient_done, "a stash has one input gradient");
  impl_->head_input_gradient(s, weights, context.loss_scale);
  for (uint32_t layer = impl_->config.layers; layer-- > 0;)
    RETURN_IF_ERROR(impl_->block_input_gradient(s, LayerIndex(layer), weights, context));
  s.room->dembedded_ND.assign(impl_->residual_ND.data(), impl_->residual_ND.size());
  s.input_gradient_done = true;
  return {};
}

template <class T>
Status MoeModel<T>::weight_gradient(Stash<T>& stash, GradientSink<T>& gradients) {
  auto& s = static_cast<StashImpl<T>&>(stash);
  CHECK(s.input_gradient_done, "W needs what I keeps");
  if (s.tokens() == 0) return {};
  return impl_->dense_weight_gradient(s, gradients);
}

template <class T>
Status MoeModel<T>::expert_weight_gradient(Stash<T>& stash, GradientSink<T>& gradients) {
  auto& s = static_cast<StashImpl<T>&>(stash);
  CHECK(s.input_gradient_done, "W needs what I keeps");
  const MoeSizes sizes = impl_->moe_sizes(s.tokens(), 1.0);
  for (uint32_t layer = impl_->config.layers; layer-- > 0;) {
    const MoeStash<T>& moe = s.room->blocks[layer].moe;
    RETURN_IF_ERROR(experts_weight_gradient(sizes.expert, moe.plan.products,
                                            impl_->expert_groups(LayerIndex(layer)), moe.experts,
                                            gradients));
  }
  return {};
}

template class MoeModel<float>;
template class MoeModel<double>;

}  // namespace holdfast::train
